package lock

import (
	"errors"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/blobtest"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/blob/retry"
)

func TestStore(t *testing.T) {
	// The kit's own names, but for config, packs and points, are none that are locked.
	now := time.Now()
	open := func(*testing.T) blob.Locker {
		return New(mem.NewLocking(func() time.Time { return now }, blob.Locking{Enabled: true}), Policy{Mode: blob.Governance, Period: time.Hour})
	}
	blobtest.RunLocks(t, open, func(d time.Duration) { now = now.Add(d) })
}

func TestWhatIsLocked(t *testing.T) {
	now := time.Date(2026, 11, 21, 1, 30, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	s := New(retry.New(mem.NewLocking(clock, blob.Locking{Enabled: true}), retry.Options{}), Policy{Mode: blob.Compliance, Period: 30 * 24 * time.Hour, Now: clock})
	want := blob.Lock{Mode: blob.Compliance, Until: now.Add(30 * 24 * time.Hour)}
	for name, locked := range map[string]bool{
		"config": true, "keys/1": true, "epochs/2": true, "packs/aa/1": true, "index/1": true, "points/vm/1": true,
		"forgotten/1": true, "revoked/1": true, "sessions/vm.1": false, "marks/1": false, "leases/prune/1": false,
		"quarantine/1": false, "holds/vm.1": false, "probe/x/1": false, "configuration": false,
	} {
		if err := s.Create(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
		if !locked {
			want := blob.Lock{}
			if got, err := s.Retention(t.Context(), name); err != nil || got != want {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			continue
		}
		if got, err := s.Retention(t.Context(), name); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err := s.Delete(t.Context(), name); !errors.Is(err, blob.ErrLocked) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A store that cannot lock stores nothing that should be.
func TestNoLocksBelow(t *testing.T) {
	s := New(retry.New(mem.New(), retry.Options{}), Policy{Mode: blob.Governance, Period: time.Hour})
	if err := s.Create(t.Context(), "packs/1", nil); !errors.Is(err, blob.ErrNoLocks) {
		t.Error(err)
	}
	if err := s.Create(t.Context(), "sessions/1", nil); err != nil {
		t.Error(err)
	}
}
