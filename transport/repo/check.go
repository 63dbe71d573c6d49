package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// CheckOptions say how much a check reads.
type CheckOptions struct {
	// ReadAll reads every byte of every pack and opens it. Without, the
	// structure is proven: that all maps are whole, and that every block that
	// they name is listed in an index object, in a pack of the right size whose
	// own directory says the same.
	ReadAll bool
	// Sample reads that share of the packs' bytes as ReadAll would, 0 to 1: other
	// packs in each check.
	Sample float64
	// Repair saves what can be saved of damaged packs and writes index objects
	// anew, where the check finds that something is wrong.
	Repair bool
	// Progress hears of bytes read, of the total to read; it may be nil. It is
	// called from several goroutines.
	Progress func(done, total int64)
}

// CheckReport is what a check found.
type CheckReport struct {
	Points   int       `json:"points"`   // restore points that can be read
	Objects  int       `json:"objects"`  // in the store
	Packs    int       `json:"packs"`    //
	Blocks   int64     `json:"blocks"`   // in packs
	Read     int64     `json:"read"`     // bytes of packs, with ReadAll or Sample
	Stored   int64     `json:"stored"`   // bytes of packs in the store
	Problems []Problem `json:"problems"` // sorted by object
	// Lost is what the restore points that can be read have lost, by VM and time.
	Lost []Loss `json:"lost,omitempty"`
	// Repaired is what was done about it, with Repair, and Remaining what is wrong
	// after it all the same. Lost is what is lost for good then.
	Repaired  *Repaired `json:"repaired,omitempty"`
	Remaining []Problem `json:"remaining,omitempty"`
}

// Problem is what is wrong with one object.
type Problem struct {
	Object string   `json:"object"`
	Points []string `json:"points,omitempty"` // ids of the restore points that it hits
	Err    string   `json:"error"`
}

// Check proves the repository. It goes on past whatever it finds; an error means
// that it could not go on, as when the store does not answer. It believes nothing
// that is cached on this host, and notes there, and for all hosts in the store, what
// it finds damaged, for the next backups to store again. Backups may go on meanwhile.
//
// What it holds in memory grows with packs (about 300 bytes each), points (about 1 KB
// each, however many others they name) and damage, not with blocks: those are in files of
// a temporary folder, at 41 bytes a block and map node. For 100 million blocks that is some
// 15 MB of memory, 4 GB of files, and what the kernel caches of them.
func (r *Repository) Check(ctx context.Context, o CheckOptions) (report CheckReport, err error) {
	if err := r.Allow(RoleRestore|RoleMaintain, "check"); err != nil && !r.ring.CanReadMaps() {
		return CheckReport{}, err
	}
	c := &checker{r: r, o: o, packs: map[[32]byte]*packState{}, bad: map[string]*Problem{}, heads: map[Head]struct{}{}}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.open(); err != nil {
		return CheckReport{}, err
	}
	if err := c.run(ctx); err != nil {
		return CheckReport{}, err
	}
	c.note(ctx)
	if report = c.result(); !o.Repair || len(c.bad) == 0 {
		return report, nil
	}
	return c.repairAll(ctx, report)
}

// checker is one check under way: one step after the other, but each step may
// read several objects at the same time.
type checker struct {
	r     *Repository
	o     CheckOptions
	index *index.Index // of what the store's index objects list and is whole, as far as it was read
	gone  *index.Index // of what they list, and is lost
	clean *nameSet     // nodes under which nothing is lost

	points []checkedPoint
	links  []Point           // of the chain: what points are in it, and no more
	heads  map[Head]struct{} // that links name
	nodes  *nodes

	manifests, indexes, quarantines []blob.Info        // in the store
	sessions                        map[sid]*announced // under way
	packs                           map[[32]byte]*packState

	mu     sync.Mutex          // guards what follows
	bad    map[string]*Problem // by object
	total  int64               // bytes of packs to read
	lost   []Loss
	hurt   []Root // streams that lost something
	report CheckReport
}

// packState is what a check knows of a pack in the store.
type packState struct {
	info   blob.Info
	chosen bool // to be read whole
	listed bool // by an index object that was read

	once    sync.Once
	damage  *damage       // after once; nil: none that is known
	listing *pack.Listing // of a damaged one, as an index object has it
	digest  [32]byte
	failed  error // of the store
}

func (c *checker) open() (err error) {
	if c.index, err = index.Open(""); err != nil {
		return err
	}
	if c.gone, err = index.Open(""); err != nil {
		return err
	}
	c.clean, err = newNameSet()
	return err
}

func (c *checker) close() error {
	var errs []error
	for _, x := range []*index.Index{c.index, c.gone} {
		if x != nil {
			errs = append(errs, x.Close())
		}
	}
	if c.clean != nil {
		errs = append(errs, c.clean.close())
	}
	return errors.Join(errs...)
}

func (c *checker) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		c.list, c.checkKeys, c.checkTrust, c.checkIndex, c.checkUnlisted, c.checkPoints, c.checkChain, c.checkMaps,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// problem takes down what is wrong with an object, or returns err when it is not
// the object that is wrong.
func (c *checker) problem(object string, err error) error {
	var known *objectError
	if err = objectErr(object, err); !errors.As(err, &known) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.bad[known.object]
	if p == nil {
		p = &Problem{Object: known.object, Err: known.err.Error()}
		if id, ok := pointID(known.object); ok {
			p.Points = []string{id}
		}
		c.bad[known.object] = p
	}
	return nil
}

// hit takes down that a bad object hits a restore point.
func (c *checker) hit(object, point string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.bad[object]; p != nil && !slices.Contains(p.Points, point) {
		p.Points = append(p.Points, point)
	}
}

func (c *checker) result() CheckReport {
	c.report.Problems = []Problem{} // an empty list in JSON, not null
	for _, p := range c.bad {
		slices.Sort(p.Points)
		c.report.Problems = append(c.report.Problems, *p)
	}
	slices.SortFunc(c.report.Problems, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	c.report.Lost = c.lost
	return c.report
}

// foreignPoints reports what lies among the points under names of none, and drops it.
func (c *checker) foreignPoints() error {
	for _, i := range c.manifests {
		if isPoint(i) {
			continue
		}
		if err := c.problem(i.Name, fmt.Errorf("%w: no name of a restore point", wire.ErrDamaged)); err != nil {
			return err
		}
	}
	c.manifests = slices.DeleteFunc(c.manifests, func(i blob.Info) bool { return !isPoint(i) })
	return nil
}

// listIndexes takes down the index objects that count.
func (c *checker) listIndexes(ctx context.Context) error {
	all, err := list(ctx, c.r.store, indexPrefix)
	if err != nil {
		return err
	}
	m := new(marks)
	if c.r.ring.Format().Signed() {
		if m, err = c.r.readMarks(ctx, c.r.store, nil); err != nil {
			m = &marks{unread: true}
			if err := c.problem(markPrefix, err); err != nil {
				return err
			}
		}
	}
	c.indexes = slices.DeleteFunc(all, func(i blob.Info) bool { return !m.counts(i.Name) })
	return nil
}

// list takes down what is in the store, against the order in which backups write: of
// one that is under way at most what nothing needs yet is seen.
func (c *checker) list(ctx context.Context) (err error) {
	if c.quarantines, err = list(ctx, c.r.store, quarantinePrefix); err != nil {
		return err
	}
	sessions, err := c.r.announcedSessions(ctx, "")
	if err != nil {
		return err
	}
	c.sessions = underWay(sessions)
	if c.manifests, err = list(ctx, c.r.store, pointPrefix); err != nil {
		return err
	}
	if err := c.foreignPoints(); err != nil {
		return err
	}
	if err := c.listIndexes(ctx); err != nil {
		return err
	}
	packs, err := list(ctx, c.r.store, packPrefix)
	if err != nil {
		return err
	}
	c.report.Objects = len(c.manifests) + len(c.indexes) + len(packs)
	for _, p := range packs {
		name, ok := sumOf(p.Name)
		if !ok || packObject(name) != p.Name {
			if err := c.problem(p.Name, fmt.Errorf("%w: no name of a pack", wire.ErrDamaged)); err != nil {
				return err
			}
			continue
		}
		c.packs[name] = &packState{info: p}
		c.report.Stored += p.Size
	}
	c.report.Packs = len(c.packs)
	c.choose()
	return nil
}
