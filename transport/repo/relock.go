package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// LockOptions say what RenewLocks sees to.
type LockOptions struct {
	Mode blob.LockMode
	// Period is how long all that a restore point needs is to stay locked, from
	// the time that the store took the point.
	Period time.Duration
	// Until says of the points of a VM, oldest first, until when each is to stay locked if
	// that is longer; the zero time where it is not. Of the points there are the outlines, and
	// who signed them. Nil: none is.
	Until func(points []Point) []time.Time
	// Slack is how much longer than needed a lock is made when it must be renewed,
	// so that the next points that reuse a pack ask for no renewal.
	Slack time.Duration
	// Memory is a file that remembers which locks were made, so that none is made
	// twice. It may be lost, and then all are; so are they after a change of Mode. Empty: nothing is remembered.
	Memory string
	DryRun bool // only count
}

// LockReport is what RenewLocks did.
type LockReport struct {
	Points  int `json:"points"`  // that are to be locked still
	Objects int `json:"objects"` // that they need
	Renewed int `json:"renewed"` // locks that were made, or made longer
}

// lockers is how many locks are made at the same time.
const lockers = 8

// RenewLocks makes the locks of all objects that restore points need last as long as
// the points are to be locked: packs that a point reuses of older ones, and what is
// needed to open the repository. The store must be a blob.Locker: blob.ErrNoLocks.
// It takes a key that reads maps, and of the store no right but to lock.
//
// Of a block that lies in several packs, the same copies are locked that maintenance keeps:
// see choice. Of the index objects that list a pack and that count, the newest is locked
// with it. So maintenance that writes a shorter index object beside an old one lets the old
// one's lock end.
//
// The object of a point that has lost something is not locked, only what it needs.
//
// A point that cannot be read hides no other: the error, which wraps ErrCorrupt or
// ErrVersion then, comes beside the report of what was done. So does blob.ErrLocked, of
// an object that the store holds in another mode until its time is over.
func (r *Repository) RenewLocks(ctx context.Context, o LockOptions) (LockReport, error) {
	l := &relock{r: r, o: o, wants: map[string]time.Time{}, seen: map[block.Name]bool{}}
	if err := r.mayList(); err != nil {
		return l.report, err
	}
	l.recall()
	if err := l.gather(ctx); err != nil {
		return l.report, fmt.Errorf("renew locks: %w", err)
	}
	err := l.renew(ctx)
	if !o.DryRun {
		err = errors.Join(err, l.remember())
	}
	if err != nil {
		return l.report, fmt.Errorf("renew locks: %w", err)
	}
	return l.report, errors.Join(l.damaged...)
}

// relock is a renewal under way.
type relock struct {
	r       *Repository
	o       LockOptions
	wants   map[string]time.Time // object -> when its lock may end at the earliest
	seen    map[block.Name]bool  // nodes of points that are locked for longer
	indexes []blob.Info          // that count, newest first
	choice  choice
	places  []index.Location // of a block: memory of need
	copies  []index.Location
	known   lockMemory
	damaged []error
	torn    int // how often something was lost
	report  LockReport
}

// want asks for a lock of an object. Points come in the order of how long they are locked,
// so the first that needs an object needs it for the longest time.
func (l *relock) want(object string, until time.Time) {
	if _, newer := l.wants[object]; !newer {
		l.wants[object] = until
	}
}

// gather finds out what is needed, and until when. As in a survey, points are listed before
// index objects, and those before packs.
func (l *relock) gather(ctx context.Context) error {
	points, err := listPoints(ctx, l.r.store, pointPrefix)
	if err != nil {
		return err
	}
	wanted, err := l.pointsToLock(ctx, points)
	if err != nil || len(wanted) == 0 {
		return err
	}
	if err := l.choose(ctx); err != nil {
		return err
	}
	for i := range wanted {
		if err := l.point(ctx, &wanted[i]); err != nil {
			return err
		}
	}
	l.cover()
	return l.always(ctx, wanted[0].until)
}

// lockedPoint is a point, and until when it is to be locked.
type lockedPoint struct {
	Point
	object  string
	created time.Time
	until   time.Time
}

// pointsToLock reads the points that are to be locked still, the longest first.
func (l *relock) pointsToLock(ctx context.Context, infos []blob.Info) (points []lockedPoint, err error) {
	now, gone := l.r.now(), givenUp{r: l.r}
	for _, info := range infos {
		until := info.Created.Add(l.o.Period)
		if l.o.Until == nil && !until.After(now) {
			continue
		}
		p, err := gone.read(ctx, l.r.store, info)
		if passable(err) {
			if err = reported(err); err != nil {
				l.note(err)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		p = short(&p)
		p.Heads = nil // nothing else of thousands is held in memory
		points = append(points, lockedPoint{p, info.Name, info.Created, until})
	}
	if l.o.Until != nil {
		l.prolong(points)
	}
	points = slices.DeleteFunc(points, func(p lockedPoint) bool { return !p.until.After(now) })
	slices.SortFunc(points, func(a, b lockedPoint) int {
		return cmp.Or(b.until.Compare(a.until), b.created.Compare(a.created), cmp.Compare(a.object, b.object))
	})
	return points, nil
}

// prolong asks how much longer the points of each VM are to be locked.
func (l *relock) prolong(points []lockedPoint) {
	slices.SortFunc(points, func(a, b lockedPoint) int {
		return cmp.Or(cmp.Compare(a.VM, b.VM), a.Frozen.Compare(b.Frozen), cmp.Compare(a.ID, b.ID))
	})
	for len(points) > 0 {
		n := slices.IndexFunc(points, func(p lockedPoint) bool { return p.VM != points[0].VM })
		if n < 0 {
			n = len(points)
		}
		of := make([]Point, n)
		for i := range of {
			of[i] = points[i].Point
		}
		for i, until := range l.o.Until(of) {
			if until.After(points[i].until) {
				points[i].until = until
			}
		}
		points = points[n:]
	}
}

func newestFirst(a, b blob.Info) int {
	return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Name, b.Name))
}

// choose takes down which packs and index objects there are, to choose from as maintenance
// does.
func (l *relock) choose(ctx context.Context) error {
	if err := l.r.loadDoubts(ctx, l.r.store); err != nil {
		return err
	}
	m, err := l.r.readableMarks(ctx)
	if err != nil {
		return err
	}
	l.choice = newChoice(m)
	infos, _, err := listIndex(ctx, l.r.store, m)
	if err != nil {
		return err
	}
	l.indexes = slices.SortedFunc(maps.Values(infos), newestFirst)
	lists := map[string]indexLists{}
	for _, info := range l.indexes {
		of, err := l.listsOf(ctx, info)
		if err := l.passed(err); err != nil {
			return err
		}
		lists[info.Name] = of
		for _, c := range of.Makers {
			l.choice.certified(l.r, c)
		}
	}
	l.known.Indexes = lists
	return l.choice.listPacks(ctx, l.r)
}

// listsOf is what an index object lists. It is read once.
func (l *relock) listsOf(ctx context.Context, info blob.Info) (of indexLists, err error) {
	of, known := l.known.Indexes[info.Name]
	if known && !slices.ContainsFunc(of.Packs, func(id []byte) bool { return len(id) != 32 }) {
		return of, nil
	}
	listings, err := l.r.readIndex(ctx, l.r.store, info)
	of = indexLists{}
	for i := range listings {
		of.Packs = append(of.Packs, listings[i].Pack[:])
		if c := listings[i].Certificate; !slices.ContainsFunc(of.Makers, func(o []byte) bool { return bytes.Equal(o, c) }) {
			of.Makers = append(of.Makers, c)
		}
	}
	return of, err
}

// cover asks for the newest index object of each pack that is needed.
func (l *relock) cover() {
	covered := map[string]bool{}
	for _, info := range l.indexes {
		for _, id := range l.known.Indexes[info.Name].Packs {
			object := packObject([32]byte(id))
			until, needed := l.wants[object]
			if needed && !covered[object] {
				covered[object] = true
				if until.After(l.wants[info.Name]) {
					l.wants[info.Name] = until
				}
			}
		}
	}
}

// need asks for the packs that a block is kept in.
func (l *relock) need(ctx context.Context, name block.Name, until time.Time) error {
	if err := l.find(ctx, name); err != nil {
		return l.passed(err)
	}
	l.copies = l.choice.copies(l.copies, l.places)
	if len(l.copies) == 0 {
		return l.passed(objectErr(packObject(l.places[0].Pack), fmt.Errorf("%w: missing", wire.ErrDamaged)))
	}
	for i := range l.copies {
		if c := &l.copies[i]; !l.choice.superfluous(c, l.copies) {
			l.want(packObject(c.Pack), until)
		}
	}
	return nil
}

// find fills places, with one at least.
func (l *relock) find(ctx context.Context, name block.Name) error {
	look := func() error {
		return l.r.mending(ctx, func() (err error) {
			l.places, err = l.r.index.Places(l.places[:0], name)
			return err
		})
	}
	if err := look(); err != nil || len(l.places) > 0 {
		return err
	}
	if _, err := l.r.find(ctx, name); err != nil { // follows the store
		return err
	}
	if err := look(); err != nil || len(l.places) > 0 {
		return err
	}
	return noBlock(name)
}

// always asks for what every point needs.
func (l *relock) always(ctx context.Context, until time.Time) error {
	l.want(configObject, until)
	for _, prefix := range []string{keyPrefix, epochPrefix, revokedPrefix, forgottenPrefix} {
		infos, err := list(ctx, l.r.store, prefix)
		if err != nil {
			return err
		}
		for _, info := range infos {
			l.want(info.Name, until)
		}
	}
	return nil
}

// point asks for what a point needs that no other does for longer.
func (l *relock) point(ctx context.Context, p *lockedPoint) error {
	l.report.Points++
	need := func(name block.Name) error { return l.need(ctx, name, p.until) }
	began := l.torn
	var path []int // of the nodes that the walk is in: torn when it entered them
	w := tree.Walker{
		Load: l.r.nodes(l.r.store).load,
		Enter: func(name block.Name) (bool, error) {
			if l.seen[name] {
				return false, nil
			}
			l.seen[name], path = true, append(path, l.torn)
			return true, nil
		},
		Leave: func(name block.Name) error {
			err := need(name)
			if n := len(path) - 1; path[n] != l.torn {
				delete(l.seen, name) // the next point that has it is not whole either
			}
			path = path[:len(path)-1]
			return err
		},
		Bad: func(_ block.Name, _ tree.Span, err error) error { return l.passed(err) },
		Leaf: func(_ int64, entries []tree.Entry) error {
			for i := range entries {
				if err := need(entries[i].Name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for root := range p.roots() {
		if err := w.Walk(ctx, tree.Root(root)); err != nil {
			return err
		}
	}
	if l.torn == began { // else nobody could forget for long what was made to stop maintenance
		l.want(p.object, p.until)
	}
	return nil
}

// maxDamaged bounds the errors that are kept of damaged objects.
const maxDamaged = 100

// passed notes damage and goes on: what is whole is to be locked all the same.
func (l *relock) passed(err error) error {
	if err == nil || !passable(err) {
		return err
	}
	l.torn++
	l.note(err)
	return nil
}

func (l *relock) note(err error) {
	if len(l.damaged) < maxDamaged {
		l.damaged = append(l.damaged, err)
	}
}

// renew makes the locks that are not known to last long enough, and takes them down.
func (l *relock) renew(ctx context.Context) error {
	known := l.known.Locks
	l.report.Objects = len(l.wants)
	for object := range known {
		if _, needed := l.wants[object]; !needed {
			delete(known, object)
		}
	}
	var mu sync.Mutex // of known and report
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lockers)
	for object, until := range l.wants {
		mu.Lock()
		enough := known[object] >= until.Unix()
		mu.Unlock()
		if enough {
			continue
		}
		g.Go(func() error {
			lock := blob.Lock{Mode: l.o.Mode, Until: until}
			if !strings.HasPrefix(object, pointPrefix) { // which nothing reuses
				lock.Until = until.Add(l.o.Slack)
			}
			var err error
			if !l.o.DryRun {
				err = blob.Retain(ctx, l.r.store, object, lock)
			}
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, blob.ErrNotFound) { // forgotten since, or lost
				return l.passed(objectErr(object, err))
			}
			if errors.Is(err, blob.ErrLocked) { // in another mode: the others are locked all the same
				l.note(err)
				return nil
			}
			if err != nil {
				return err
			}
			known[object] = lock.Until.Unix()
			l.report.Renewed++
			return nil
		})
	}
	return g.Wait()
}
