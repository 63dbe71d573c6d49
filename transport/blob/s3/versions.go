package s3

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/minio/minio-go/v7"

	"github.com/lull-backup/lull/transport/blob"
)

// versioning is what replies have told about the bucket: whether it keeps versions.
type versioning struct{ state atomic.Int32 }

const (
	versionsUnknown = iota
	versionsOff
	versionsOn
)

// saw takes note of the version in a reply to a PUT, HEAD or GET.
func (v *versioning) saw(id string) {
	if id == "" {
		v.state.Store(versionsOff)
	} else {
		v.state.Store(versionsOn)
	}
}

const (
	// maxVersions bounds the versions of one object that Delete and Reveal remove at a time.
	maxVersions = 1 << 17
	// maxHidden bounds the objects with older versions that Hidden remembers.
	maxHidden = 1 << 20
)

// Delete removes the bytes. In a bucket with versions a plain DELETE would only lay a
// marker on top of them, so it names the version, which takes a HEAD to learn it and
// one to see that there was no other below.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := begin(ctx, name)
	if err == nil && s.versions.state.Load() == versionsOff {
		err = s.removeVersion(ctx, name, "")
	} else if err == nil {
		err = s.removeVersions(ctx, name)
	}
	if err != nil && sentinel(err) != blob.ErrNotFound {
		return s.failed(ctx, "delete", name, err)
	}
	return nil
}

func (s *Store) removeVersions(ctx context.Context, name string) error {
	info, err := s.stat(ctx, name)
	for range maxVersions {
		if err != nil {
			return err
		}
		if err := s.removeVersion(ctx, name, info.VersionID); err != nil || info.VersionID == "" {
			return err
		}
		info, err = s.client.StatObject(ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{})
	}
	return fmt.Errorf("it has more than %d versions", maxVersions)
}

// removeVersion deletes one version, or without its id whatever a plain DELETE does.
func (s *Store) removeVersion(ctx context.Context, name, id string) error {
	err := s.client.RemoveObject(ctx, s.bucket, s.prefix+name, minio.RemoveObjectOptions{VersionID: id})
	if sentinel(err) == blob.ErrDenied {
		// Some stores say so of a lock, too.
		if held, e := s.retention(ctx, name, id); e == nil && held.Mode != "" {
			return fmt.Errorf("%w: %w", blob.ErrLocked, err)
		}
	}
	return err
}

// history is what counts of the versions of one object, however many a thief has made. They
// come newest first, but for markers, which some stores list apart: those come anywhere.
type history struct {
	first minio.ObjectInfo // the oldest that has bytes; none: without a key
	top   minio.ObjectInfo // that a plain read meets
}

func (h *history) saw(o minio.ObjectInfo) {
	if h.top.Key == "" || o.IsLatest && !h.top.IsLatest {
		h.top = o
	}
	if !o.IsDeleteMarker {
		h.first = o
	}
}

// hidden tells of an object whose newest version does not show the first.
func (h *history) hidden(prefix string) (blob.Hidden, bool) {
	first, top := &h.first, &h.top
	if first.Key == "" || (!top.IsDeleteMarker && (top.VersionID == first.VersionID || same(top, first))) {
		return blob.Hidden{}, false
	}
	return blob.Hidden{
		Name: strings.TrimPrefix(first.Key, prefix), Size: first.Size, Created: first.LastModified,
		Deleted: top.IsDeleteMarker, Since: top.LastModified,
	}, true
}

// same is true of a copy that Reveal laid on top.
func same(a, b *minio.ObjectInfo) bool { return a.ETag == b.ETag && a.Size == b.Size && a.ETag != "" }

// histories are those of the objects under prefix that have more than one version,
// or a marker. It remembers nothing of all others, which are nearly all.
func (s *Store) histories(ctx context.Context, prefix string) (map[string]*history, error) {
	found := map[string]*history{}
	var newest minio.ObjectInfo // the one version of its object so far
	opts := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, WithVersions: true}
	for o := range s.client.ListObjectsIter(ctx, s.bucket, opts) {
		if o.Err != nil {
			return nil, o.Err
		}
		if name, ours := strings.CutPrefix(o.Key, s.prefix); !ours || blob.CheckName(name) != nil {
			continue
		}
		if o.IsLatest && !o.IsDeleteMarker {
			newest = o
			continue
		}
		h := found[o.Key]
		if h == nil {
			if len(found) == maxHidden {
				return nil, fmt.Errorf("more than %d objects have older versions", maxHidden)
			}
			h = new(history)
			found[o.Key] = h
			if newest.Key == o.Key {
				h.saw(newest)
			}
		}
		h.saw(o)
	}
	return found, ctx.Err() // the library ends in silence
}

func (s *Store) Hidden(ctx context.Context, prefix string, fn func(blob.Hidden) error) error {
	if err := s.keepsVersions(ctx); err != nil {
		return s.failed(ctx, "list what is hidden in", prefix, err)
	}
	found, err := s.histories(ctx, prefix)
	if err != nil {
		return s.failed(ctx, "list what is hidden in", prefix, err)
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		if h, is := found[key].hidden(s.prefix); is {
			if err := fn(h); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) keepsVersions(ctx context.Context) error {
	l, err := s.locking(ctx)
	if err == nil && !l.Versioned {
		err = blob.ErrNoVersions
	}
	return err
}

func (s *Store) Reveal(ctx context.Context, name string) error {
	err := begin(ctx, name)
	if err == nil {
		err = s.keepsVersions(ctx)
	}
	if err == nil {
		err = s.reveal(ctx, name)
	}
	if err != nil {
		return s.failed(ctx, "reveal", name, err)
	}
	return nil
}

// reveal takes away whatever is not the first version; what of that is locked stays,
// and gets a copy of the first on top.
func (s *Store) reveal(ctx context.Context, name string) error {
	found, err := s.histories(ctx, name)
	if err != nil {
		return err
	}
	h := found[s.prefix+name]
	if h == nil || h.first.Key == "" { // one version, or none at all
		_, err := s.stat(ctx, name)
		return err
	}
	if _, is := h.hidden(s.prefix); !is {
		return nil
	}
	others, err := s.versionsBut(ctx, name, h.first.VersionID)
	if err != nil {
		return err
	}
	locked := false
	for _, id := range others {
		err := s.removeVersion(ctx, name, id)
		if kind := sentinel(err); kind == blob.ErrLocked || errors.Is(err, blob.ErrLocked) {
			locked = true
		} else if err != nil {
			return err
		}
	}
	if locked {
		return s.copyOnTop(ctx, name, h.first.VersionID)
	}
	return nil
}

// versionsBut are the versions and markers of an object, but for one.
func (s *Store) versionsBut(ctx context.Context, name, but string) (ids []string, err error) {
	opts := minio.ListObjectsOptions{Prefix: s.prefix + name, Recursive: true, WithVersions: true}
	for o := range s.client.ListObjectsIter(ctx, s.bucket, opts) {
		if o.Err != nil {
			return nil, o.Err
		}
		if o.Key != s.prefix+name || o.VersionID == but {
			continue
		}
		if ids = append(ids, o.VersionID); len(ids) > maxVersions {
			return nil, fmt.Errorf("it has more than %d versions", maxVersions)
		}
	}
	return ids, ctx.Err() // the library ends in silence
}

func (s *Store) copyOnTop(ctx context.Context, name, version string) error {
	_, err := minio.Core{Client: s.client}.CopyObject(ctx, s.bucket, s.prefix+name, s.bucket, s.prefix+name,
		nil, minio.CopySrcOptions{VersionID: version}, minio.PutObjectOptions{})
	return err
}

// RefusesDamage puts an object whose content is not what its checksum says, and
// reports whether the store refused it. One that did not has the object now.
func (s *Store) RefusesDamage(ctx context.Context, name string) (bool, error) {
	if err := begin(ctx, name); err != nil {
		return false, s.failed(ctx, "create", name, err)
	}
	opts := minio.PutObjectOptions{
		UserMetadata:     map[string]string{checksumKey: s.sum([]byte("what was meant"))},
		DisableMultipart: true, DisableContentSha256: true,
	}
	data := []byte("what is sent")
	_, err := minio.Core{Client: s.client}.PutObject(ctx, s.bucket, s.prefix+name, strings.NewReader(string(data)), int64(len(data)), "", s.signedHash(data), opts)
	if err == nil {
		return false, nil
	}
	var reply minio.ErrorResponse
	if errors.As(err, &reply) && reply.StatusCode == 400 {
		return true, nil
	}
	return false, s.failed(ctx, "create", name, err)
}
