package repo_test

import (
	"errors"
	"testing"
	"time"

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
