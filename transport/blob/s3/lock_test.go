package s3

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/blobtest"
	"github.com/lull-backup/lull/transport/blob/s3/s3test"
)

// wait lets real time pass: the server's clock is the machine's.
func wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}

func TestLocks(t *testing.T) {
	server := s3test.StartWith(t, s3test.Options{Locks: true})
	var n atomic.Int32
	open := func(t *testing.T) *Store {
		c := configOf(server)
		c.Prefix = fmt.Sprintf("kit/%d", n.Add(1))
		s, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	blobtest.RunLocks(t, func(t *testing.T) blob.Locker { return open(t) }, wait)
	t.Run("Plain", func(t *testing.T) { // the whole contract in a bucket with versions
		blobtest.Run(t, func(t *testing.T) blob.Store { return open(t) })
	})
}

func TestLocking(t *testing.T) {
	day := 24 * time.Hour
	for _, c := range []struct {
		o    s3test.Options
		days uint
		want blob.Locking
	}{
		{s3test.Options{}, 0, blob.Locking{}},
		{s3test.Options{Versions: true}, 0, blob.Locking{Versioned: true}},
		{s3test.Options{Locks: true}, 0, blob.Locking{Enabled: true, Versioned: true}},
		{s3test.Options{Locks: true}, 30, blob.Locking{Enabled: true, Versioned: true, Mode: blob.Compliance, For: 30 * day}},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			server := s3test.StartWith(t, c.o)
			if c.days > 0 {
				server.DefaultRetention(t, minio.Compliance, c.days)
			}
			s := openStore(t, configOf(server))
			got, err := s.Locking(t.Context())
			if err != nil || got != c.want {
				t.Errorf("%+v, %v", got, err)
			}
			if err := s.Create(t.Context(), "x", nil); err != nil {
				t.Fatal(err)
			}
			l := blob.Lock{Mode: blob.Governance, Until: time.Now().Add(time.Hour)}
			err = s.Create(blob.WithLock(t.Context(), l), "y", nil)
			if c.o.Locks != (err == nil) || (err != nil && !errors.Is(err, blob.ErrNoLocks)) {
				t.Errorf("create with a lock: %v", err)
			}
			if err := s.Retain(t.Context(), "x", l); c.days == 0 && !c.o.Locks && !errors.Is(err, blob.ErrNoLocks) {
				t.Errorf("lock: %v", err)
			}
			if err := s.Delete(t.Context(), "x"); c.days > 0 && !errors.Is(err, blob.ErrLocked) {
				t.Errorf("delete what the bucket locks by itself: %v", err)
			}
		})
	}
}

func hidden(t *testing.T, s *Store) []string {
	t.Helper()
	var found []string
	err := s.Hidden(t.Context(), "", func(h blob.Hidden) error {
		found = append(found, fmt.Sprintf("%s %d %v", h.Name, h.Size, h.Deleted))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// A thief with a right to delete and to write lays markers and other content on top of
// objects; he has no right to their versions, or they are locked.
func TestHiddenObjectsComeBack(t *testing.T) { testHidden(t, s3test.StartWith) }

func testHidden(t *testing.T, start func(testing.TB, s3test.Options) *s3test.Server) {
	for _, locks := range []bool{false, true} {
		t.Run(fmt.Sprintf("locks=%v", locks), func(t *testing.T) {
			server := start(t, s3test.Options{Versions: true, Locks: locks})
			c := configOf(server)
			c.Prefix = "deep/er"
			s, thief := openStore(t, c), server.Admin(t)
			names := []string{"config", "packs/aa/deleted", "packs/aa/over", "packs/aa/over-locked", "points/p/twice", "points/p/fine"}
			ctx := t.Context()
			if locks {
				ctx = blob.WithLock(ctx, blob.Lock{Mode: blob.Governance, Until: time.Now().Add(time.Hour)})
			}
			for _, name := range names {
				if err := s.Create(ctx, name, []byte(name)); err != nil {
					t.Fatal(err)
				}
			}
			mark := func(name string) {
				if err := thief.RemoveObject(t.Context(), server.Bucket, "deep/er/"+name, minio.RemoveObjectOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			over := func(name string, o minio.PutObjectOptions) {
				if _, err := thief.PutObject(t.Context(), server.Bucket, "deep/er/"+name, strings.NewReader("forged"), 6, o); err != nil {
					t.Fatal(err)
				}
			}
			mark("config")
			mark("packs/aa/deleted")
			over("packs/aa/over", minio.PutObjectOptions{})
			if locks {
				over("packs/aa/over-locked", minio.PutObjectOptions{Mode: minio.Compliance, RetainUntilDate: time.Now().Add(time.Hour)})
			} else {
				over("packs/aa/over-locked", minio.PutObjectOptions{})
			}
			mark("points/p/twice")
			over("points/p/twice", minio.PutObjectOptions{})
			mark("points/p/twice")
			want := []string{"config 6 true", "packs/aa/deleted 16 true", "packs/aa/over 13 false", "packs/aa/over-locked 20 false", "points/p/twice 14 true"}
			if got := hidden(t, s); !slices.Equal(got, want) {
				t.Errorf("hidden: %q", got)
			}
			for range 2 { // the second time there is nothing to do
				for _, name := range names {
					if err := s.Reveal(t.Context(), name); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := hidden(t, s); got != nil {
				t.Errorf("still hidden: %q", got)
			}
			for _, name := range names {
				if got, err := s.Read(t.Context(), name, 0, -1); err != nil || !bytes.Equal(got, []byte(name)) {
					t.Errorf("%s: %q, %v", name, got, err)
				}
			}
			if err := s.Reveal(t.Context(), "packs/aa"); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("reveal what never was: %v", err)
			}
		})
	}
}

// A deletion by lull leaves nothing that costs, or that could come back.
func TestDeleteLeavesNoVersion(t *testing.T) {
	server := s3test.StartWith(t, s3test.Options{Versions: true})
	writer, other := openStore(t, configOf(server)), openStore(t, configOf(server))
	for i, s := range []*Store{writer, other} { // the other has not seen a reply yet
		name := fmt.Sprint("d/", i)
		if err := writer.Create(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	opts := minio.ListObjectsOptions{Recursive: true, WithVersions: true}
	for o := range server.Admin(t).ListObjectsIter(t.Context(), server.Bucket, opts) {
		t.Errorf("left: %s %s, marker %v, %v", o.Key, o.VersionID, o.IsDeleteMarker, o.Err)
	}
}

func TestNoVersions(t *testing.T) {
	s := openStore(t, configOf(s3test.Start(t)))
	err := s.Hidden(t.Context(), "", func(blob.Hidden) error { return nil })
	if !errors.Is(err, blob.ErrNoVersions) {
		t.Error(err)
	}
	if err := s.Reveal(t.Context(), "x"); !errors.Is(err, blob.ErrNoVersions) {
		t.Error(err)
	}
}
