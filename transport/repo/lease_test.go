package repo_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/repo"
)

// leased is a repository whose prunes a hostile writer would keep from going on.
type leased struct {
	store *mem.Store
	r     *repo.Repository
	now   time.Time
}

func newLeased(t *testing.T) *leased {
	t.Helper()
	l := &leased{now: clock()}
	clock := func() time.Time { return l.now }
	l.store = mem.NewAt(clock)
	initRepo(t, l.store)
	r, err := repo.Open(t.Context(), l.store, repo.OpenOptions{Passphrase: passphrase, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	l.r = r
	return l
}

func (l *leased) plant(t *testing.T, content []byte, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := l.store.Create(t.Context(), name, content); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever can write below leases/, and has no key, keeps no prune from anything: neither by
// the numbers nor by what lies there, and a check tells of it.
func TestHostileLeases(t *testing.T) {
	for _, name := range []string{
		"9223372036854775807", "9223372036854775808", "1073741824", "1073741825", "1", "2", "1.1", "1.end", "2.1",
		"-1", "01", "0", "1.01", "1.", "1.end.end", "x", "1/2", "99999999999999999999999999999999",
		"1.9223372036854775808",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLeased(t)
			object := "leases/prune/" + name
			l.plant(t, []byte("garbage"), object)
			if !slices.ContainsFunc(check(t, l.r, repo.CheckOptions{}).Problems, func(p repo.Problem) bool { return p.Object == object }) {
				t.Error("a check does not tell of it")
			}
			told := prune(t, l.r, atOnce).Ignored
			if renewal := name == "1.1" || name == "1.end" || name == "2.1"; slices.Contains(told, object) == renewal {
				t.Errorf("told of: %q", told)
			}
			prune(t, l.r, atOnce)
		})
	}
}

// What a key has signed that may not take leases is none, nor is one under another's name.
func TestLeasesOfOthers(t *testing.T) {
	l := newLeased(t)
	addKey(t, l.store, "host1", repo.RoleBackup)
	if err := repo.TakeLease(t.Context(), openAs(t, l.store, "host1", repo.OpenOptions{}), 7, ""); err != nil {
		t.Fatal(err)
	}
	if told := prune(t, l.r, atOnce).Ignored; !slices.Equal(told, []string{"leases/prune/7"}) {
		t.Errorf("told of: %q", told)
	}
	moved, err := l.store.Read(t.Context(), "leases/prune/1", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	l.plant(t, moved, "leases/prune/9")
	if told := prune(t, l.r, atOnce).Ignored; !slices.Equal(told, []string{"leases/prune/9"}) {
		t.Errorf("told of: %q", told)
	}
}

// A lease that is alive is respected, whatever lies beside it, and no renewal or end that
// nobody signed changes anything.
func TestLeaseIsRespected(t *testing.T) {
	l := newLeased(t)
	if err := repo.TakeLease(t.Context(), l.r, 3, ""); err != nil {
		t.Fatal(err)
	}
	l.plant(t, []byte("garbage"), "leases/prune/3.end", "leases/prune/5", "leases/prune/9223372036854775807")
	wantBusy := func(busy bool) {
		t.Helper()
		if _, err := l.r.Prune(t.Context(), atOnce); errors.Is(err, repo.ErrBusy) != busy || !busy && err != nil {
			t.Fatalf("%v, busy: want %t", err, busy)
		}
	}
	wantBusy(true)
	l.now = l.now.Add(9 * time.Minute)
	if err := repo.TakeLease(t.Context(), l.r, 3, ".4"); err != nil {
		t.Fatal(err)
	}
	l.now = l.now.Add(9 * time.Minute)
	wantBusy(true)
	l.plant(t, []byte("garbage"), "leases/prune/3.5")
	l.now = l.now.Add(2 * time.Minute)
	wantBusy(false)
}

// After the last number comes the first; what says it was made in the future is not alive
// until then.
func TestLastLease(t *testing.T) {
	l := newLeased(t)
	l.now = l.now.Add(100 * 365 * 24 * time.Hour)
	if err := repo.TakeLease(t.Context(), l.r, 1<<30, ""); err != nil {
		t.Fatal(err)
	}
	l.now = clock()
	for range 2 {
		if told := prune(t, l.r, atOnce).Ignored; len(told) > 0 {
			t.Errorf("told of: %q", told)
		}
	}
	if left := namesUnder(l.store, "leases/"); !slices.Equal(left, []string{"leases/prune/2", "leases/prune/2.end"}) {
		t.Errorf("left: %q", left)
	}
}

// However many lie there, a prune reads some and goes on.
func TestManyHostileLeases(t *testing.T) {
	l := newLeased(t)
	for n := range 2000 {
		l.plant(t, []byte("garbage"), fmt.Sprintf("leases/prune/%d", n+1), fmt.Sprintf("leases/prune/x%d", n))
	}
	counted := &readsOf{Store: l.store}
	r := openRepo(t, counted)
	before := counted.n
	report := prune(t, r, atOnce)
	if len(report.Ignored) != 16 || counted.n-before > 300 {
		t.Errorf("%d reads, told of %q", counted.n-before, report.Ignored)
	}
}

// readsOf counts what is read.
type readsOf struct {
	blob.Store
	n int
}

func (s *readsOf) Read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	s.n++
	return s.Store.Read(ctx, name, off, length)
}
