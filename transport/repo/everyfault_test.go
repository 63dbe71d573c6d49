package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// TestEveryFault does all that is done to a repository, and lets each operation of each of
// these activities fail in each way that there is. Whatever happens, check finds nothing
// wrong, but for an object that the store itself has torn; every committed point restores;
// and the activity can be done again.
func TestEveryFault(t *testing.T) {
	base := newPlace(t)
	for _, a := range activities() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			hits := 0
			for _, k := range faultKinds() {
				hits += sweep(t, base, a, k)
			}
			if hits < 25 {
				t.Errorf("%d operations failed, want 25 at least", hits)
			}
		})
	}
}

// sweep lets one operation after the other fail, and returns how many there were.
func sweep(t *testing.T, base *place, a activity, k faultKind) int {
	t.Helper()
	hits := 0
	step := k.step
	if k.sparse {
		step *= a.step
	}
	for n := 1; ; n += step {
		p := base.clone()
		f := faults.New(p.store)
		if a.elsewhere {
			f = faults.New(p.other)
		}
		hit := false
		store := k.arm(p, f, n, func() { hit = true })
		err := a.do(p, t.Context(), store)
		if !hit && !f.Crashed() {
			if err != nil {
				t.Fatalf("%s: without a fault: %v", a.name, err)
			}
			return hits
		}
		hits++
		if err != nil && !slices.ContainsFunc(k.causes, func(e error) bool { return errors.Is(err, e) }) {
			t.Fatalf("%s %d: %v\n%s", k.name, n, err, f.Log())
		}
		switch s := store.(type) {
		case *replayed:
			s.again(t)
		case *withheld:
			s.arrive(t)
		}
		if err := p.afterwards(t, a, torn(f.Log()), err != nil && n%k.again == 0); err != nil {
			t.Fatalf("%s %d: %v\n%s", k.name, n, err, f.Log())
		}
	}
}

// torn is the object that the store has torn.
func torn(log string) string {
	for line := range strings.Lines(log) {
		if words := strings.Fields(line); words[len(words)-1] == "torn" {
			return words[1]
		}
	}
	return ""
}

// activity is one of the things that are done to a repository, over a store.
type activity struct {
	name      string
	elsewhere bool // the store is that of the other repository
	step      int  // of a long one, from one operation to the next, for kinds that are sparse
	do        func(p *place, ctx context.Context, store blob.Store) error
}

func activities() []activity {
	return []activity{
		{"backup", false, 1, (*place).backup},
		{"copy from", false, 1, func(p *place, ctx context.Context, store blob.Store) error { return p.copy(ctx, store, p.other) }},
		{"copy into", true, 1, func(p *place, ctx context.Context, store blob.Store) error { return p.copy(ctx, p.store, store) }},
		{"forget", false, 1, (*place).forget},
		{"prune", false, 3, (*place).prune},
		{"keys", false, 1, (*place).keys},
	}
}

// faultKind is a way in which one operation fails.
type faultKind struct {
	name string
	// arm makes the nth operation that can fail so do it, and call hit.
	arm    func(p *place, f *faults.Store, n int, hit func()) blob.Store
	causes []error // that the activity may end with
	step   int     // from one operation that fails to the next
	again  int     // each such one is done again
	sparse bool    // not each operation of a long activity fails so
}

func faultKinds() []faultKind {
	one := func(fault faults.Fault) func(*place, *faults.Store, int, func()) blob.Store {
		return func(_ *place, f *faults.Store, n int, hit func()) blob.Store {
			fault.Nth, fault.While = n, hit
			f.Add(fault)
			return f
		}
	}
	slowDown, reset := errors.New("503 slow down"), errors.New("connection reset")
	damaged := []error{repo.ErrCorrupt, repo.ErrVersion, repo.ErrPassphrase}
	return []faultKind{
		{"crash", func(_ *place, f *faults.Store, n int, _ func()) blob.Store {
			f.CrashAfter(n - 1)
			return f
		}, []error{faults.ErrCrashed}, 1, 1, false},
		{"torn write", one(faults.Fault{Op: faults.Create, Torn: 100}), []error{faults.ErrCrashed}, 1, 1, true},
		{"duplicate", one(faults.Fault{Op: faults.Change, Twice: true}), nil, 1, 1, true},
		{"late duplicate", func(_ *place, f *faults.Store, n int, hit func()) blob.Store {
			return &replayed{Store: f, nth: n, hit: hit}
		}, nil, 1, 1, false},
		{"late request", func(p *place, f *faults.Store, n int, hit func()) blob.Store {
			return &withheld{Store: f, p: p, crash: f.CrashAfter, nth: n, hit: hit}
		}, []error{faults.ErrCrashed, errWithheld}, 1, 1, false},
		{"lost reply", one(faults.Fault{Op: faults.Change, After: reset}), []error{reset, blob.ErrExists}, 1, 2, false},
		{"storm", one(faults.Fault{Before: slowDown, For: 3}), []error{slowDown}, 3, 4, true},
		{"bit flip", one(faults.Fault{Op: faults.Read, Flip: 8*70 + 3}), damaged, 1, 9, true},
		{"body cut off", one(faults.Fault{Op: faults.Read, Cut: 9}), damaged, 2, 9, true},
		{"slow body", func(p *place, f *faults.Store, n int, hit func()) blob.Store {
			f.Add(faults.Fault{Nth: n, While: func() { hit(); p.maintain() }})
			return f
		}, []error{repo.ErrFenced, repo.ErrCorrupt, blob.ErrNotFound, blob.ErrExists}, 3, 4, true},
		{"stale list", func(p *place, f *faults.Store, n int, hit func()) blob.Store {
			return &stale{Store: f, before: p.before, nth: n, hit: hit, own: map[string]bool{}}
		}, []error{repo.ErrCorrupt}, 1, 4, true},
	}
}

// replayed is a store to which the nth creation comes again, at any time later.
type replayed struct {
	blob.Store
	nth, seen int
	hit       func()
	repeat    func() error
}

func (s *replayed) Create(ctx context.Context, name string, data []byte) error {
	ctx = blob.WithNonce(ctx)
	err := s.Store.Create(ctx, name, data)
	if s.seen++; s.seen == s.nth && err == nil {
		s.hit()
		s.repeat = func() error { return s.Store.Create(context.WithoutCancel(ctx), name, slices.Clone(data)) }
	}
	return err
}

func (s *replayed) again(t *testing.T) {
	t.Helper()
	if err := s.repeat(); err != nil && !errors.Is(err, blob.ErrExists) {
		t.Fatal(err)
	}
}

// withheld is a store to which the nth change comes days after its host has crashed, when
// others have given the host up.
type withheld struct {
	blob.Store
	p         *place
	crash     func(int)
	nth, seen int
	hit       func()
	late      func() error
}

var errWithheld = errors.New("no reply")

func (s *withheld) change(late func() error) error {
	if s.seen++; s.seen != s.nth {
		return late()
	}
	s.hit()
	s.crash(0)
	s.late = late
	return errWithheld
}

func (s *withheld) Create(ctx context.Context, name string, data []byte) error {
	data, ctx = slices.Clone(data), context.WithoutCancel(ctx)
	return s.change(func() error { return s.Store.Create(ctx, name, data) })
}

func (s *withheld) Delete(ctx context.Context, name string) error {
	ctx = context.WithoutCancel(ctx)
	return s.change(func() error { return s.Store.Delete(ctx, name) })
}

func (s *withheld) arrive(t *testing.T) {
	t.Helper()
	for range 3 {
		s.p.maintain()
	}
	s.crash(1)
	if err := s.late(); err != nil && !errors.Is(err, blob.ErrExists) {
		t.Fatal(err)
	}
	s.p.sleep(time.Hour)
}

// stale is a store whose nth list does not show what another host did just before, though
// it does show what this one did.
type stale struct {
	blob.Store
	before    *mem.Store
	mu        sync.Mutex
	nth, seen int
	hit       func()
	own       map[string]bool // created or deleted
}

func (s *stale) note(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[name] = true
}

func (s *stale) Create(ctx context.Context, name string, data []byte) error {
	s.note(name)
	return s.Store.Create(ctx, name, data)
}

func (s *stale) Delete(ctx context.Context, name string) error {
	s.note(name)
	return s.Store.Delete(ctx, name)
}

func (s *stale) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen++; s.seen != s.nth {
		return s.Store.List(ctx, prefix, fn)
	}
	s.hit()
	shown := map[string]blob.Info{}
	err := s.Store.List(ctx, prefix, func(i blob.Info) error {
		if s.own[i.Name] {
			shown[i.Name] = i
		}
		return nil
	})
	err = errors.Join(err, s.before.List(ctx, prefix, func(i blob.Info) error {
		if !s.own[i.Name] {
			shown[i.Name] = i
		}
		return nil
	}))
	for _, name := range sortedNames(shown) {
		err = errors.Join(err, fn(shown[name]))
	}
	return err
}

func sortedNames(all map[string]blob.Info) (names []string) {
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// place is two repositories, one of which has a copy of a point of the other.
type place struct {
	store, other *mem.Store
	before       *mem.Store // the store before another host did what it did last
	beyond       bool       // something was done to other
	mu           sync.Mutex
	at           time.Time
	failed       error // of another host

	old, web repo.Point        // old is forgotten, or to be
	disks    map[string][]byte // by VM, what a point that is not in known has
	known    map[string][]byte // by id
	must     map[string]bool   // ids of points that must be there
	copied   map[string]bool   // and there
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{at: clock(), known: map[string][]byte{}, must: map[string]bool{}, copied: map[string]bool{}}
	p.store, p.other = mem.NewAt(p.now), mem.NewAt(p.now)
	initRepo(t, p.store)
	initRepo(t, p.other)
	addKey(t, p.store, "gone", repo.RoleBackup)
	addKey(t, p.store, "reader", repo.RoleRestore)
	first := digits(1, 40*block.PageSize)
	half := bytes.Clone(first)
	copy(half, digits(2, 30*block.PageSize))
	p.disks = map[string][]byte{"lab/web": append(bytes.Clone(half), first...), "lab/db": digits(3, 9*block.PageSize)}
	r, err := repo.Open(t.Context(), p.store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: clock, Compression: repo.CompressFast}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	commit := func(vm string, disk []byte) repo.Point {
		point := mustCommit(t, r, vm, disk)
		p.known[point.ID], p.must[point.ID] = disk, true
		return point
	}
	p.old = commit("lab/web", first)
	p.web = commit("lab/web", half)
	c, err := transport.Copy(t.Context(), r, openSmall(t, p.other), p.old, nil, transport.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	p.copied[c.ID] = true
	p.before = p.store.Clone()
	commit("lab/db", p.disks["lab/db"])
	p.sleep(time.Hour)
	return p
}

func (p *place) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func (p *place) sleep(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = p.at.Add(d)
}

func (p *place) clone() *place {
	c := &place{at: p.now(), before: p.before, old: p.old, web: p.web, disks: p.disks, known: p.known, must: map[string]bool{}, copied: map[string]bool{}}
	c.store, c.other = p.store.CloneAt(c.now), p.other.CloneAt(c.now)
	for id := range p.must {
		c.must[id] = true
	}
	for id := range p.copied {
		c.copied[id] = true
	}
	return c
}

// with opens the repository in a store, and closes it again.
func (p *place) with(ctx context.Context, store blob.Store, do func(*repo.Repository) error) error {
	r, err := repo.Open(ctx, store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Label: "owner", Now: p.now, Compression: repo.CompressFast}))
	if err != nil {
		return err
	}
	return errors.Join(do(r), r.Close())
}

func (p *place) backup(ctx context.Context, store blob.Store) error {
	return p.with(ctx, store, func(r *repo.Repository) error {
		s, err := r.Begin(ctx, "lab/web", p.now())
		if err != nil {
			return err
		}
		defer s.Close()
		parent, err := s.Parent()
		if err != nil {
			return err
		}
		root, err := backup(ctx, s, p.disks["lab/web"], &parent.Disks[0].Root)
		if err != nil {
			return err
		}
		made, err := s.Commit(ctx, repo.Point{VM: "lab/web", Frozen: p.now(), Disks: []repo.Disk{{Root: root}}})
		if err == nil {
			p.must[made.ID] = true
		}
		return err
	})
}

func (p *place) copy(ctx context.Context, from, to blob.Store) error {
	p.beyond = true
	return p.with(ctx, from, func(source *repo.Repository) error {
		return p.with(ctx, to, func(target *repo.Repository) error {
			made, err := transport.Copy(ctx, source, target, p.web, []repo.Point{p.old, p.web}, transport.Options{Workers: 1})
			if err == nil {
				p.copied[made.ID] = true
			}
			return err
		})
	})
}

func (p *place) forget(ctx context.Context, store blob.Store) error {
	delete(p.must, p.old.ID)
	return p.with(ctx, store, func(r *repo.Repository) error {
		if err := r.Hold(ctx, p.web, "in a test"); err != nil {
			return err
		}
		if err := r.Forget(ctx, []repo.Point{p.old}); err != nil {
			return err
		}
		return r.Release(ctx, p.web)
	})
}

// prune forgets, out of harm's way, and prunes until what was forgotten is gone, and what was
// compressed in a hurry is compressed well.
func (p *place) prune(ctx context.Context, store blob.Store) error {
	if err := p.forget(ctx, p.store); err != nil {
		return err
	}
	return p.with(ctx, store, func(r *repo.Repository) error {
		for _, budget := range []int64{1 << 30, 0} {
			if _, err := r.Prune(ctx, repo.PruneOptions{Keep: 1, Recompress: budget}); err != nil && !errors.Is(err, repo.ErrBusy) {
				return err
			}
			p.sleep(25 * time.Hour)
		}
		return nil
	})
}

func (p *place) keys(ctx context.Context, store blob.Store) error {
	return p.with(ctx, store, func(r *repo.Repository) error {
		_, err := r.AddKey(ctx, repo.NewKey{Label: "new", Roles: repo.RoleMaintain, Passphrase: secretOf("new"), Cost: cheap})
		if err != nil && !errors.Is(err, repo.ErrKeyExists) {
			return err
		}
		if _, err := r.RemoveKey(ctx, "gone"); err != nil && !errors.Is(err, repo.ErrNoKey) {
			return err
		}
		_, err = r.RotateKeys(ctx)
		return err
	})
}

// maintain is another host that prunes, more than the grace later.
func (p *place) maintain() {
	p.sleep(30 * time.Hour)
	stores := []blob.Store{p.store}
	if p.beyond {
		stores = append(stores, p.other)
	}
	for _, store := range stores {
		err := p.with(context.Background(), store, func(r *repo.Repository) error {
			_, err := r.Prune(context.Background(), repo.PruneOptions{})
			return err
		})
		p.failed = errors.Join(p.failed, err)
	}
}

// afterwards is another host, later: it looks at everything, does again what did not
// succeed, and looks again.
func (p *place) afterwards(t *testing.T, a activity, torn string, again bool) error {
	t.Helper()
	p.sleep(30 * time.Hour)
	if err := errors.Join(p.failed, p.whole(t.Context(), torn)); err != nil || torn != "" || !again {
		return err
	}
	store := p.store
	if a.elsewhere {
		store = p.other
	}
	if err := a.do(p, t.Context(), store); err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("again: %w", err)
	}
	if err := p.whole(t.Context(), ""); err != nil {
		return fmt.Errorf("after it was done again: %w", err)
	}
	return nil
}

// whole proves both repositories.
func (p *place) whole(ctx context.Context, torn string) error {
	for _, s := range []struct {
		store *mem.Store
		must  map[string]bool
	}{{p.store, p.must}, {p.other, p.copied}} {
		if s.store == p.other && !p.beyond {
			continue
		}
		err := p.with(ctx, s.store, func(r *repo.Repository) error {
			report, err := r.Check(ctx, repo.CheckOptions{ReadAll: true})
			if err != nil {
				return err
			}
			for _, bad := range report.Problems {
				if torn == "" || bad.Object != torn {
					return fmt.Errorf("check finds %+v", bad)
				}
			}
			return p.restores(ctx, r, s.must, torn)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// restores proves that all points restore that are there, and that those are there that
// must be.
func (p *place) restores(ctx context.Context, r *repo.Repository, must map[string]bool, torn string) error {
	points, err := r.Points(ctx, "")
	if err != nil && torn == "" {
		return err
	}
	there := map[string]bool{}
	for _, point := range points {
		there[point.ID] = true
		id := point.ID
		if point.Origin != nil {
			id = point.Origin.Point
		}
		want, ok := p.known[id]
		if !ok {
			want = p.disks[point.VM]
		}
		got, err := restore(ctx, r, point.Disks[0].Root)
		if err == nil && !bytes.Equal(got, want) {
			err = errors.New("another content")
		}
		if err != nil {
			return fmt.Errorf("point %s: %w", point.ID, err)
		}
	}
	for id := range must {
		if !there[id] {
			return fmt.Errorf("point %s is gone", id)
		}
	}
	return nil
}
