package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lull-backup/lull/transport/blob"
)

// Store is a blob.Store in a bucket. It is to be closed.
type Store struct {
	client    *minio.Client
	transport *http.Transport
	bucket    string
	prefix    string
	name      string
	secure    bool // https
	stall     time.Duration
	sum       func([]byte) string // checksum, but for tests
	versions  versioning
}

const (
	nonceKey    = "Lull-Nonce" // of user metadata, as the library hands it out
	checksumKey = "x-amz-checksum-crc32c"
)

// Close closes the connections that are idle. No operation may be under way.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

func (s *Store) String() string { return s.name }

func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	err := begin(ctx, name)
	if err == nil && len(data) > blob.MaxSize {
		err = blob.ErrTooBig
	}
	if err == nil {
		err = s.create(ctx, name, data)
	}
	if err != nil {
		return s.failed(ctx, "create", name, err)
	}
	return nil
}

func (s *Store) create(ctx context.Context, name string, data []byte) error {
	nonce := blob.Nonce(ctx)
	opts := minio.PutObjectOptions{
		UserMetadata:         map[string]string{nonceKey: nonce, checksumKey: s.sum(data)},
		DisableMultipart:     true,
		DisableContentSha256: true, // not by the library in chunks: signedHash does
	}
	if err := lockNew(ctx, &opts); err != nil {
		return err
	}
	opts.SetMatchETagExcept("*")
	put, err := minio.Core{Client: s.client}.PutObject(ctx, s.bucket, s.prefix+name,
		bytes.NewReader(data), int64(len(data)), "", s.signedHash(data), opts)
	if err == nil {
		s.versions.saw(put.VersionID)
		return nil
	}
	kind := sentinel(err)
	if ctx.Err() != nil || (kind != blob.ErrExists && blob.Permanent(kind)) {
		return err
	}
	// The name is taken, or the reply got lost: some stores refuse a taken name
	// before they have read the body, and a client still writing sees a broken
	// connection only. What is there now says which, and whether it is ours.
	s.transport.CloseIdleConnections() // they may lead nowhere any more, too
	info, statErr := s.stat(ctx, name)
	switch {
	case statErr == nil && info.UserMetadata[nonceKey] == nonce:
		return nil
	case statErr == nil:
		return blob.ErrExists
	}
	return err
}

// signedHash is what the signature says of the payload: over TLS nothing.
func (s *Store) signedHash(data []byte) string {
	if s.secure {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// checksum is CRC-32C as S3 writes it.
func checksum(data []byte) string {
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

func (s *Store) Read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	err := begin(ctx, name)
	if err == nil && off < 0 {
		err = blob.ErrRange
	}
	var data []byte
	if err == nil {
		data, err = s.read(ctx, name, off, length)
	}
	if err != nil {
		return nil, s.failed(ctx, "read", name, err)
	}
	return data, nil
}

func (s *Store) read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if length == 0 {
		return s.readNothing(ctx, name, off) // HTTP has no range of no bytes
	}
	watched, alive, stop := watch(ctx, s.stall+replyLimit)
	defer stop()
	data, err := s.get(watched, name, off, length, alive)
	if watched.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: %w", blob.ErrUnreachable, context.Cause(watched))
	}
	if sentinel(err) == blob.ErrRange && length < 0 {
		return s.readNothing(ctx, name, off) // from the very end on, or beyond it?
	}
	return data, err
}

func (s *Store) readNothing(ctx context.Context, name string, off int64) ([]byte, error) {
	info, err := s.stat(ctx, name)
	if err != nil {
		return nil, err
	}
	_, err = blob.CheckRange(info.Size, off, 0)
	return nil, err
}

// get reads at least one byte.
func (s *Store) get(ctx context.Context, name string, off, length int64, alive func()) ([]byte, error) {
	var opts minio.GetObjectOptions
	switch {
	case length > 0:
		// An end beyond any object is a range that S3 understands, but one
		// that does not fit a number is not.
		if end := off + length - 1; end >= off {
			opts.Set("Range", fmt.Sprintf("bytes=%d-%d", off, end))
		} else {
			return nil, s.past(ctx, name)
		}
	case off > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	body, info, _, err := minio.Core{Client: s.client}.GetObject(ctx, s.bucket, s.prefix+name, opts)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	n, err := blob.CheckRange(info.Size, 0, length)
	if err != nil {
		return nil, err
	}
	if length > 0 && info.Size != length {
		return nil, fmt.Errorf("the store sends %d bytes, asked for %d", info.Size, length)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(&lively{body, alive}, data); err != nil {
		return nil, fmt.Errorf("%w: reply breaks off: %w", blob.ErrUnreachable, err)
	}
	return data, nil
}

// past is the error of a range that no object has.
func (s *Store) past(ctx context.Context, name string) error {
	if _, err := s.stat(ctx, name); err != nil {
		return err
	}
	return blob.ErrRange
}

// lively tells of every byte that arrives.
type lively struct {
	io.Reader
	alive func()
}

func (l *lively) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	if n > 0 {
		l.alive()
	}
	return n, err
}

func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	err := begin(ctx, name)
	var info minio.ObjectInfo
	if err == nil {
		info, err = s.stat(ctx, name)
	}
	if err != nil {
		return blob.Info{}, s.failed(ctx, "stat", name, err)
	}
	return blob.Info{Name: name, Size: info.Size, Created: info.LastModified}, nil
}

func (s *Store) stat(ctx context.Context, name string) (minio.ObjectInfo, error) {
	info, err := s.client.StatObject(ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{})
	if err == nil {
		s.versions.saw(info.VersionID)
	}
	if sentinel(err) == blob.ErrNotFound {
		err = s.which(ctx, err)
	}
	return info, err
}

// which tells a missing object from a missing bucket or user, about which the
// reply to a HEAD, having no body, is silent: it asks something that has one.
func (s *Store) which(ctx context.Context, notFound error) error {
	opts := minio.ListObjectsOptions{Prefix: s.prefix, Recursive: true, MaxKeys: 1}
	for o := range s.client.ListObjectsIter(ctx, s.bucket, opts) {
		if kind := sentinel(o.Err); kind == blob.ErrNoBucket || kind == blob.ErrDenied {
			return o.Err
		}
		break
	}
	return notFound
}

func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	return s.ListPages(ctx, prefix, 0, fn)
}

// ListPages is List with at most page objects in each request's reply, for a probe
// of paging; 0: as many as the store likes.
func (s *Store) ListPages(ctx context.Context, prefix string, page int, fn func(blob.Info) error) error {
	i := strings.LastIndexByte(prefix, '/')
	if (i >= 0 && blob.CheckName(prefix[:i]) != nil) || strings.HasPrefix(prefix[i+1:], ".") {
		return nil // no object's name starts so, and MinIO refuses to look
	}
	opts := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, MaxKeys: page}
	for o := range s.client.ListObjectsIter(ctx, s.bucket, opts) {
		if o.Err != nil {
			return s.failed(ctx, "list", prefix, o.Err)
		}
		name, ours := strings.CutPrefix(o.Key, s.prefix)
		if !ours || !strings.HasPrefix(name, prefix) || blob.CheckName(name) != nil {
			continue
		}
		if err := fn(blob.Info{Name: name, Size: o.Size, Created: o.LastModified}); err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if err := ctx.Err(); err != nil { // the library ends in silence
		return s.failed(ctx, "list", prefix, err)
	}
	return nil
}

func begin(ctx context.Context, name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	return ctx.Err()
}
