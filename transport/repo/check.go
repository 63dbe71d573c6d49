package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// CheckOptions say how much a check reads.
type CheckOptions struct {
	// ReadAll reads every byte of every pack and opens it. Without, the
	// structure is proven: that all maps are whole, and that every block that
	// they name is listed in an index object, in a pack of the right size whose
	// own directory says the same.
	ReadAll bool
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
	Read     int64     `json:"read"`     // bytes, with ReadAll
	Problems []Problem `json:"problems"` // sorted by object
}

// Problem is what is wrong with one object.
type Problem struct {
	Object string   `json:"object"`
	Points []string `json:"points,omitempty"` // ids of the restore points that it hits
	Err    string   `json:"error"`
}

// Check proves the repository. It goes on past whatever it finds; an error means
// that it could not go on, as when the store does not answer. It believes nothing
// that is cached on this host, and notes there what it finds damaged, for the next
// backup to store again. Backups may go on meanwhile.
func (r *Repository) Check(ctx context.Context, o CheckOptions) (CheckReport, error) {
	dir, err := os.MkdirTemp("", "lull-check-")
	if err != nil {
		return CheckReport{}, err
	}
	defer os.RemoveAll(dir)
	x, err := index.Open(dir)
	if err != nil {
		return CheckReport{}, err
	}
	c := &checker{r: r, o: o, index: x, packs: map[[32]byte]blob.Info{}, bad: map[string]*Problem{}}
	err = errors.Join(c.run(ctx), x.Close())
	if err != nil {
		return CheckReport{}, err
	}
	report := c.result()
	if err := c.note(); err != nil { // a problem, but no reason to hide the others
		report.Problems = append(report.Problems, Problem{Object: r.doubts.path, Err: err.Error()})
	}
	return report, nil
}

// checker is one check under way: one step after the other, but each step may
// read several objects at the same time.
type checker struct {
	r      *Repository
	o      CheckOptions
	index  *index.Index // of the index objects in the store
	points []Point

	manifests, indexes []blob.Info // in the store
	packs              map[[32]byte]blob.Info

	mu     sync.Mutex          // guards what follows
	bad    map[string]*Problem // by object
	report CheckReport
}

func (c *checker) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		c.list, c.checkKeys, c.checkTrust, c.checkIndex, c.checkPacks, c.checkPoints, c.checkChain, c.checkMaps, c.checkLost,
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
	if sum, ok := sumOf(known.object); ok && packObject(sum) == known.object {
		c.index.Doubt(sum)
	}
	return nil
}

// note keeps what is damaged for the backups to come.
func (c *checker) note() error {
	var objects []string
	for name := range c.bad {
		if name == indexPrefix || strings.HasPrefix(name, packPrefix) {
			objects = append(objects, name)
		}
	}
	if c.o.ReadAll {
		return c.r.doubts.settle(objects)
	}
	return c.r.doubts.add(objects...)
}

// hit takes down that a bad object hits a restore point.
func (c *checker) hit(object, point string) {
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
	return c.report
}

// checkKeys reads the config object and the key files again.
func (c *checker) checkKeys(ctx context.Context) error {
	conf, err := readConfig(ctx, c.r.store)
	if err == nil && string(conf) != string(c.r.config) {
		err = fmt.Errorf("%w: changed since the repository was opened", wire.ErrDamaged)
	}
	if errors.Is(err, ErrNoRepository) {
		err = fmt.Errorf("%w: %w", wire.ErrDamaged, err)
	}
	if err := c.problem(configObject, err); err != nil {
		return err
	}
	files, err := list(ctx, c.r.store, keyPrefix)
	if err != nil {
		return err
	}
	for _, f := range files {
		err := c.checkKeyFile(ctx, f)
		if err := c.problem(f.Name, err); err != nil {
			return err
		}
	}
	c.report.Objects += 1 + len(files)
	return nil
}

// list takes down what is in the store, against the order in which backups write: of
// one that is under way at most what nothing needs yet is seen.
func (c *checker) list(ctx context.Context) (err error) {
	if c.manifests, err = list(ctx, c.r.store, pointPrefix); err != nil {
		return err
	}
	if c.indexes, err = list(ctx, c.r.store, indexPrefix); err != nil {
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
		c.packs[name] = p
	}
	c.report.Packs = len(c.packs)
	return nil
}

// checkIndex reads all index objects, compares them with the packs that they list
// and gathers their entries.
func (c *checker) checkIndex(ctx context.Context) error {
	for _, o := range c.indexes {
		packs, err := c.r.readIndex(ctx, c.r.store, o)
		if err != nil {
			if err := c.problem(o.Name, err); err != nil {
				return err
			}
			continue
		}
		if err := c.comparePacks(ctx, o.Name, packs); err != nil {
			return err
		}
		if err := c.index.Add(ctx, sourceOf(o.Name), entriesOf(c.r.ring, packs)); err != nil {
			return err
		}
	}
	return nil
}
