package repo_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/repo"
)

// A copy that was begun and not ended is left alone for some time; then, or when maintenance
// has given it up, the point is copied under another id of its time, and only once.
func TestCopyThatNeverEnded(t *testing.T) {
	const id = "20261121T013000Z-9f86d081"
	for _, fenced := range []bool{false, true} {
		now := clock()
		store := mem.NewAt(func() time.Time { return now })
		initRepo(t, store)
		open := func() *repo.Repository {
			r, err := repo.Open(t.Context(), store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: func() time.Time { return now }}))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			return r
		}
		r := open()
		crashed, err := r.BeginCopy(t.Context(), "lab/web", id, repo.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Hour)
		if _, err := open().BeginCopy(t.Context(), "lab/web", id, repo.Origin{}); !errors.Is(err, repo.ErrBusy) {
			t.Fatalf("beside another: %v, want %v", err, repo.ErrBusy)
		}
		now = now.Add(90 * time.Minute)
		if fenced {
			now = now.Add(48 * time.Hour)
			if report := prune(t, open(), repo.PruneOptions{}); report.Fenced != 1 {
				t.Fatalf("%+v", report)
			}
		}
		s, err := open().BeginCopy(t.Context(), "lab/web", id, repo.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Frozen: clock()})
		if err = errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		if p.ID == id || !strings.HasPrefix(p.ID, id[:len(id)-4]) {
			t.Errorf("the copy of %s is %s", id, p.ID)
		}
		if _, err := open().BeginCopy(t.Context(), "lab/web", id, repo.Origin{}); !errors.Is(err, blob.ErrExists) {
			t.Errorf("a second copy: %v, want %v", err, blob.ErrExists)
		}
		if err := crashed.Close(); err != nil {
			t.Fatal(err)
		}
		wantClean(t, open())
	}
}

// A copy that failed and was closed is in nobody's way.
func TestCopyThatFailed(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	for range 3 {
		s, err := openRepo(t, store).BeginCopy(t.Context(), "lab/web", "20261121T013000Z-9f86d081", repo.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be read is no copy: the point is copied once more, under another id.
func TestCopyOfWhatIsDamagedThere(t *testing.T) {
	const id = "20261121T013000Z-9f86d081"
	store := mem.New()
	initRepo(t, store)
	commit := func() repo.Point {
		t.Helper()
		s, err := openRepo(t, store).BeginCopy(t.Context(), "lab/web", id, repo.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Frozen: clock()})
		if err = errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := commit(); p.ID != id {
		t.Fatalf("the copy of %s is %s", id, p.ID)
	}
	if _, err := openRepo(t, store).BeginCopy(t.Context(), "lab/web", id, repo.Origin{}); !errors.Is(err, blob.ErrExists) {
		t.Errorf("a second copy: %v, want %v", err, blob.ErrExists)
	}
	store.Damage(objects(store, "points/")[0], func(b []byte) []byte { b[len(b)/2] ^= 4; return b })
	if p := commit(); p.ID == id || !strings.HasPrefix(p.ID, id[:len(id)-4]) {
		t.Errorf("the copy of %s, which is damaged, is %s", id, p.ID)
	}
}
