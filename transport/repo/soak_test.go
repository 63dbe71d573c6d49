package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// TestSoak lives a random life with a repository again and again: guests write, two hosts
// with keys of their own back them up, some of them for days, points are held, released,
// forgotten and copied, two maintainers prune and compress anew, packs rot where there is
// another copy of what is in them and are repaired, and the store fails or a host crashes in
// the middle of any of that. Whatever was committed and not forgotten restores, byte by byte as
// the guest had it, from this repository and from the copies, and check finds nothing.
//
// SOAK_MINUTES says for how long, else it is a few seconds; SOAK_SEED begins with that
// life, which a failure names.
func TestSoak(t *testing.T) {
	length := 5 * time.Second
	if n, err := strconv.Atoi(os.Getenv("SOAK_MINUTES")); err == nil {
		length = time.Duration(n) * time.Minute
	}
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("SOAK_SEED"), 10, 64); err == nil {
		seed = n
	}
	steps := map[string]int{}
	lives := 0
	for end := time.Now().Add(length); lives == 0 || time.Now().Before(end); lives++ {
		s := newSoak(t, seed)
		if err := s.live(t.Context(), 80); err != nil {
			t.Fatalf("SOAK_SEED=%d: %v", seed, err)
		}
		for what, n := range s.did {
			steps[what] += n
		}
		seed++
	}
	t.Logf("%d lives up to SOAK_SEED=%d: %v", lives, seed-1, steps)
}

// soak is one life.
type soak struct {
	rng    *rand.Rand
	now    time.Time
	store  *mem.Store
	other  *mem.Store // copies go there
	cache  [2]string  // of the hosts
	disks  map[string][]byte
	points map[string]committed // that must be there
	copied map[string]committed // that were copied
	held   map[string]bool
	slow   *slowSession
	did    map[string]int
}

// slowSession is a backup that goes on while other things happen.
type slowSession struct {
	r    *repo.Repository
	s    *repo.Session
	vm   string
	root repo.Root
	disk []byte
}

var errStore = errors.New("503 slow down")

func newSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	s := &soak{
		rng: rand.New(rand.NewPCG(seed, 2)), now: clock(), did: map[string]int{}, disks: map[string][]byte{},
		points: map[string]committed{}, copied: map[string]committed{}, held: map[string]bool{},
	}
	for i := range s.cache {
		s.cache[i] = t.TempDir()
	}
	s.store, s.other = mem.NewAt(s.time), mem.NewAt(s.time)
	initRepo(t, s.store)
	initRepo(t, s.other)
	addKey(t, s.store, "second", repo.RoleBackup|repo.RoleRestore)
	for _, vm := range []string{"lab/web", "lab/db", "lab/mail"} {
		s.disks[vm] = image(uint64(s.rng.IntN(3)), (1+s.rng.IntN(300))*block.PageSize)
	}
	return s
}

func (s *soak) time() time.Time { return s.now }

// open opens the repository as one of the hosts: the first owns it.
func (s *soak) open(ctx context.Context, host int, store blob.Store) (*repo.Repository, error) {
	o := repo.OpenOptions{Passphrase: passphrase, Label: "owner", Now: s.time, Cache: s.cache[host]}
	if s.rng.IntN(2) == 0 {
		o.Compression = repo.CompressFast
	}
	if host == 1 {
		o.Passphrase, o.Label = secretOf("second"), "second"
	}
	return repo.Open(ctx, store, repo.Small(o))
}

// faulty is the store, which fails now and then or crashes its host.
func (s *soak) faulty() *faults.Store {
	f := faults.New(s.store)
	switch s.rng.IntN(6) {
	case 0:
		f.CrashAfter(s.rng.IntN(20))
	case 1:
		f.Add(faults.Fault{Nth: 1 + s.rng.IntN(60), Before: errStore})
	case 2:
		f.Add(faults.Fault{Nth: 1 + s.rng.IntN(60), After: errStore})
	}
	return f
}

// expected are the errors that a store that fails, or a maintainer, brings about.
func expected(err error) bool {
	for _, e := range []error{errStore, faults.ErrCrashed, repo.ErrFenced, repo.ErrBusy, blob.ErrExists, repo.ErrHeld} {
		if errors.Is(err, e) {
			return true
		}
	}
	return err == nil
}

func (s *soak) live(ctx context.Context, steps int) error {
	all := []struct {
		name   string
		weight int
		do     func(context.Context) error
	}{
		{"write", 20, s.write}, {"backup", 20, s.backup}, {"slow", 6, s.slowly}, {"forget", 10, s.forget}, {"prune", 16, s.prune},
		{"hold", 3, s.hold}, {"copy", 4, s.copy}, {"restore", 6, s.restoreOne}, {"check", 3, s.check}, {"wait", 12, s.wait}, {"rot", 2, s.rot},
	}
	total := 0
	for _, a := range all {
		total += a.weight
	}
	for step := range steps {
		n := s.rng.IntN(total)
		i := 0
		for ; n >= all[i].weight; i++ {
			n -= all[i].weight
		}
		if err := all[i].do(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", step, all[i].name, err)
		}
		s.did[all[i].name]++
	}
	return s.finish(ctx)
}

// finish lets every session end and every mark be carried out, and looks at everything.
func (s *soak) finish(ctx context.Context) error {
	if s.slow != nil {
		if err := s.slowly(ctx); err != nil {
			return err
		}
	}
	for range 4 {
		if err := s.restoreAll(ctx); err != nil {
			return err
		}
		if err := s.check(ctx); err != nil {
			return err
		}
		s.now = s.now.Add(30 * time.Hour)
		r, err := s.open(ctx, 0, s.store)
		if err != nil {
			return err
		}
		_, err = r.Prune(ctx, repo.PruneOptions{Keep: 1})
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// write is what a guest does.
func (s *soak) write(context.Context) error {
	vm := s.vm()
	disk := bytes.Clone(s.disks[vm])
	for range 1 + s.rng.IntN(4) {
		at := s.rng.IntN(len(disk)) / block.PageSize * block.PageSize
		n := min(len(disk)-at, (1+s.rng.IntN(40))*block.PageSize)
		if s.rng.IntN(4) == 0 {
			clear(disk[at : at+n])
		} else if content := uint64(s.rng.IntN(12)); content%2 == 0 { // it is met again
			copy(disk[at:], image(content, n))
		} else {
			copy(disk[at:], digits(content, n))
		}
	}
	if s.rng.IntN(6) == 0 {
		disk = append(disk, image(9, s.rng.IntN(64)*512)...)
	}
	s.disks[vm] = disk
	return nil
}

func (s *soak) vm() string {
	return []string{"lab/web", "lab/db", "lab/mail"}[s.rng.IntN(3)]
}

// some is a point of a set; sets are iterated in order, so that a seed is a life.
func (s *soak) some(set map[string]committed) (string, bool) {
	if len(set) == 0 {
		return "", false
	}
	return sortedKeys(set)[s.rng.IntN(len(set))], true
}

func sortedKeys(set map[string]committed) (ids []string) {
	for id := range set {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (s *soak) wait(context.Context) error {
	s.now = s.now.Add(time.Duration(s.rng.IntN(12*60)) * time.Minute)
	return nil
}

func (s *soak) begin(ctx context.Context, host int, store blob.Store) (*slowSession, error) {
	s.now = s.now.Add(time.Minute)
	r, err := s.open(ctx, host, store)
	if err != nil {
		return nil, err
	}
	vm := s.vm()
	b := &slowSession{r: r, vm: vm, disk: s.disks[vm]}
	if b.s, err = r.Begin(ctx, vm, s.now); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	var parent *repo.Root
	if p, _ := b.s.Parent(); len(p.Disks) > 0 {
		parent = &p.Disks[0].Root
	}
	if b.root, err = backup(ctx, b.s, b.disk, parent); err != nil {
		return nil, errors.Join(err, b.end())
	}
	return b, nil
}

func (b *slowSession) end() error { return errors.Join(b.s.Close(), b.r.Close()) }

// commit makes the point. Where the store fails nobody knows whether there is one.
func (s *soak) commit(ctx context.Context, b *slowSession) error {
	before, err := s.ids(ctx)
	if err != nil {
		return err
	}
	p, err := b.s.Commit(ctx, repo.Point{VM: b.vm, Frozen: s.now, Disks: []repo.Disk{{Root: b.root}}})
	err = errors.Join(err, b.end())
	if p.ID != "" {
		s.points[p.ID] = committed{p, b.disk}
		return nil
	}
	after, listed := s.ids(ctx)
	for id, p := range after {
		if _, old := before[id]; !old {
			s.points[id] = committed{p, b.disk}
		}
	}
	return errors.Join(unless(expected(err), err), listed)
}

func unless(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

func (s *soak) backup(ctx context.Context) error {
	b, err := s.begin(ctx, s.rng.IntN(2), s.faulty())
	if err != nil {
		return unless(expected(err), err)
	}
	return s.commit(ctx, b)
}

// slowly begins a backup, or ends the one that was begun.
func (s *soak) slowly(ctx context.Context) error {
	if b := s.slow; b != nil {
		s.slow = nil
		return s.commit(ctx, b)
	}
	b, err := s.begin(ctx, 1, s.store)
	s.slow = b
	return err
}

// ids are the points that the store shows.
func (s *soak) ids(ctx context.Context) (map[string]repo.Point, error) {
	r, err := repo.Open(ctx, s.store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: s.time}))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	points, err := r.Points(ctx, "")
	all := map[string]repo.Point{}
	for _, p := range points {
		all[p.ID] = p
	}
	return all, err
}

func (s *soak) forget(ctx context.Context) error {
	id, ok := s.some(s.points)
	if !ok {
		return nil
	}
	r, err := s.open(ctx, 0, s.faulty())
	if err != nil {
		return unless(expected(err), err)
	}
	c := s.points[id]
	err = errors.Join(r.Forget(ctx, []repo.Point{c.point}), r.Close())
	if s.held[id] != errors.Is(err, repo.ErrHeld) && expected(err) && !errors.Is(err, errStore) && !errors.Is(err, faults.ErrCrashed) {
		return fmt.Errorf("held is %v, and forget says %v", s.held[id], err)
	}
	left, listed := s.ids(ctx)
	if _, there := left[id]; !there {
		delete(s.points, id)
		if s.held[id] {
			return errors.New("a held point is gone")
		}
	}
	return errors.Join(unless(expected(err), err), listed)
}

func (s *soak) hold(ctx context.Context) error {
	id, ok := s.some(s.points)
	if !ok {
		return nil
	}
	r, err := s.open(ctx, 0, s.store)
	if err != nil {
		return err
	}
	if s.held[id] {
		err = r.Release(ctx, s.points[id].point)
	} else if err = r.Hold(ctx, s.points[id].point, "soak"); errors.Is(err, repo.ErrNotFound) {
		// It was to be forgotten, as its tombstone says, and the store failed then.
		return r.Close()
	}
	s.held[id] = !s.held[id]
	return errors.Join(err, r.Close())
}

func (s *soak) prune(ctx context.Context) error {
	r, err := s.open(ctx, 0, s.faulty())
	if err != nil {
		return unless(expected(err), err)
	}
	o := repo.PruneOptions{Grace: time.Duration(1+s.rng.IntN(20)) * time.Hour, Keep: 1 + s.rng.IntN(20)}
	if s.rng.IntN(3) == 0 {
		o.Recompress = 1 + s.rng.Int64N(8<<20)
	}
	report, err := r.Prune(ctx, o)
	s.did["packs compressed anew"] += report.Recompressed
	err = errors.Join(err, r.Close())
	return unless(expected(err), err)
}

func (s *soak) check(ctx context.Context) error {
	for _, store := range []blob.Store{s.store, s.other} {
		r, err := repo.Open(ctx, store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: s.time}))
		if err != nil {
			return err
		}
		report, err := r.Check(ctx, repo.CheckOptions{ReadAll: true})
		if err = errors.Join(err, r.Close()); err == nil && len(report.Problems) > 0 {
			err = fmt.Errorf("check: %+v", report.Problems)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rot flips a bit where nothing is lost with it, in an index object or in a pack's signature,
// and lets a host repair that, which may crash.
func (s *soak) rot(ctx context.Context) error {
	names := append(objects(s.store, "index/"), objects(s.store, "packs/")...)
	if s.slow != nil || len(names) == 0 { // a session that meets damage commits nothing
		return nil
	}
	name := names[s.rng.IntN(len(names))]
	s.store.Damage(name, func(b []byte) []byte {
		at := s.rng.IntN(len(b))
		if strings.HasPrefix(name, "packs/") {
			at = len(b) - 1 - s.rng.IntN(64)
		}
		b[at] ^= 1 << s.rng.IntN(8)
		return b
	})
	if _, err := s.repair(ctx, s.faulty()); !expected(err) {
		return err
	}
	report, err := s.repair(ctx, s.store)
	if err == nil && len(report.Remaining)+len(report.Lost) > 0 {
		err = fmt.Errorf("after a repair of %s: %+v", name, report)
	}
	return err
}

func (s *soak) repair(ctx context.Context, store blob.Store) (report repo.CheckReport, err error) {
	r, err := s.open(ctx, 0, store)
	if err != nil {
		return report, err
	}
	report, err = r.Check(ctx, repo.CheckOptions{ReadAll: true, Repair: true})
	return report, errors.Join(err, r.Close())
}

func (s *soak) restoreOne(ctx context.Context) error {
	id, ok := s.some(s.points)
	if !ok {
		return nil
	}
	r, err := s.open(ctx, s.rng.IntN(2), s.store)
	if err != nil {
		return err
	}
	return errors.Join(same(ctx, r, s.points[id]), r.Close())
}

// same proves that a point restores as it was.
func same(ctx context.Context, r *repo.Repository, c committed) error {
	got, err := restore(ctx, r, c.point.Disks[0].Root)
	if err == nil && !bytes.Equal(got, c.disk) {
		err = errors.New("another content")
	}
	if err != nil {
		return fmt.Errorf("restore %s@%s: %w", c.point.VM, c.point.ID, err)
	}
	return nil
}

// restoreAll proves all points, here and where they were copied to.
func (s *soak) restoreAll(ctx context.Context) error {
	there, err := s.ids(ctx)
	if err != nil {
		return err
	}
	if len(there) != len(s.points) {
		return fmt.Errorf("%d points are there, want %d", len(there), len(s.points))
	}
	for store, points := range map[*mem.Store]map[string]committed{s.store: s.points, s.other: s.copied} {
		r, err := repo.Open(ctx, store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: s.time}))
		if err != nil {
			return err
		}
		for _, id := range sortedKeys(points) {
			err = errors.Join(err, same(ctx, r, points[id]))
		}
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// copy brings a point into the other repository.
func (s *soak) copy(ctx context.Context) error {
	id, ok := s.some(s.points)
	if _, done := s.copied[id]; !ok || done {
		return nil
	}
	from, err := s.open(ctx, 0, s.store)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := repo.Open(ctx, s.other, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: s.time}))
	if err != nil {
		return err
	}
	defer to.Close()
	c := s.points[id]
	earlier, err := from.Points(ctx, c.point.VM)
	if err != nil {
		return err
	}
	p, err := transport.Copy(ctx, from, to, c.point, earlier, transport.Options{})
	s.copied[id] = committed{p, c.disk}
	return err
}
