package repo_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// Whoever may delete announcements makes a session invisible to maintenance, which then
// deletes what the session builds on. No point comes of that.
func TestHiddenSessionCommitsNothing(t *testing.T) {
	for name, prunes := range map[string]struct{ before, after int }{
		"before the mark": {0, 1}, "before the decision": {0, 2}, "after the mark": {1, 1}, "carried out": {1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			store := mem.New()
			initRepo(t, store)
			disk := image(1, block.WindowSize)
			old := mustCommit(t, openRepo(t, store), "lab/old", disk)
			now := clock()
			r, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase, Now: func() time.Time { return now }})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			s := beginAt(t, r, clock().Add(hours(5)))
			root, err := backup(t.Context(), s, disk, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := openRepo(t, store).Forget(t.Context(), []repo.Point{old}); err != nil {
				t.Fatal(err)
			}
			for range prunes.before {
				prune(t, openRepo(t, store), atOnce)
			}
			dropAll(t, store, "sessions/")
			for range prunes.after {
				prune(t, openRepo(t, store), atOnce)
			}
			now = now.Add(hours(1))
			p, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Disks: []repo.Disk{{Root: root}}})
			if err != nil {
				if !errors.Is(err, repo.ErrFenced) {
					t.Errorf("%v, want %v", err, repo.ErrFenced)
				}
				return
			}
			wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
		})
	}
}

// versioned is a store that keeps what was written over.
type versioned struct {
	*mem.Store
	hidden []blob.Hidden
}

func (s *versioned) Hidden(_ context.Context, prefix string, fn func(blob.Hidden) error) error {
	for _, h := range s.hidden {
		if err := fn(h); strings.HasPrefix(h.Name, prefix) && err != nil {
			return err
		}
	}
	return nil
}

func (*versioned) Reveal(context.Context, string) error { return blob.ErrNoVersions }

// Who may write over objects makes an announcement his own and ends it. Where the store keeps
// versions, maintenance sees that, and waits for the session all the same.
func TestOverwrittenAnnouncement(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "thief", repo.RoleBackup)
	thief := openAs(t, store, "thief", repo.OpenOptions{})
	s := beginAt(t, openRepo(t, store), clock())
	name := namesUnder(store, "sessions/")[0]
	v := &versioned{Store: store, hidden: []blob.Hidden{{Name: name, Created: clock()}}}
	if err := store.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := repo.Announce(t.Context(), thief, name); err != nil {
		t.Fatal(err)
	}
	if err := repo.EndSessions(t.Context(), thief, store); err != nil {
		t.Fatal(err)
	}
	ended := func(store blob.Store) bool {
		ended, err := repo.Ended(t.Context(), openRepo(t, store), name)
		if err != nil {
			t.Fatal(err)
		}
		return ended
	}
	if !ended(store) || ended(v) {
		t.Errorf("the session has ended: %t without versions, %t with them", ended(store), ended(v))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
