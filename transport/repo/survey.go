package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// survey is what the restore points need of which pack. It reads everything from the store
// anew, and keeps a bit a block and a line a pack in memory; the rest is in a temporary
// index.
type survey struct {
	r     *Repository
	index *index.Index
	view  *index.View
	bits  []uint64 // blocks that are needed, by their slots
	nodes *nodes

	points  []blob.Info      // that were read
	indexes []blob.Info      // that count
	fences  map[string]bool  // among them
	here    []index.Location // copies of a block: memory of count
	choice
}

// survey reads what there is, and walks the maps of all points. witness are sessions
// whose points are looked for by name, whatever a list says.
func (r *Repository) survey(ctx context.Context, m *marks, witness []sid) (_ *survey, err error) {
	x, err := index.Open("")
	if err != nil {
		return nil, err
	}
	s := &survey{r: r, index: x, fences: map[string]bool{}, choice: newChoice(m)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("survey repository: %w", err), x.Close())
		}
	}()
	if err := r.loadDoubts(ctx, r.store); err != nil {
		return nil, err
	}
	// Points, then index objects, then packs: whatever a point needs is listed after it.
	points, err := s.readPoints(ctx, witness)
	if err != nil {
		return nil, err
	}
	if err := s.readIndexes(ctx, m); err != nil {
		return nil, err
	}
	if err := s.listPacks(ctx, r); err != nil {
		return nil, err
	}
	s.view = x.View()
	s.bits = make([]uint64, s.view.Slots()/64+1)
	s.nodes = &nodes{r: r, store: r.store, find: s.find, damaged: s.damaged}
	return s, s.walkAll(ctx, points)
}

// walkAll notes everything that the points need. Those that have lost something are in the
// error, as nobody knows what else they need.
func (s *survey) walkAll(ctx context.Context, points []Point) error {
	var stopped stoppedError
	for i := range points {
		err := s.walk(ctx, slices.Collect(points[i].roots()))
		if err != nil && !passable(err) {
			return err
		}
		if err != nil {
			stopped.incomplete(&points[i], err)
		}
	}
	return stopped.err()
}

func (s *survey) close() error { return s.index.Close() }

// readPoints reads all manifests: of each where its maps are, and whose it is. Those that
// cannot be read are in the error: nobody knows what they need.
func (s *survey) readPoints(ctx context.Context, witness []sid) (all []Point, err error) {
	infos, err := listPoints(ctx, s.r.store, pointPrefix)
	if err != nil {
		return nil, err
	}
	listed := listedOf(infos)
	for _, w := range witness {
		if _, ok := listed[w.point()]; ok {
			continue
		}
		info, err := s.r.store.Stat(ctx, w.point())
		if err == nil {
			infos = append(infos, info)
		} else if !errors.Is(err, blob.ErrNotFound) {
			return nil, err
		}
	}
	var stopped stoppedError
	gone := givenUp{r: s.r}
	for _, info := range infos {
		p, err := gone.read(ctx, s.r.store, info)
		switch {
		case errors.Is(err, errFence) || errors.Is(err, blob.ErrNotFound):
			// never to be, given up, or forgotten meanwhile
		case passable(err):
			stopped.unreadable(info.Name, func() string { return s.r.signerLabel(ctx, info) }, err)
		case err != nil:
			return nil, err
		default:
			p = short(&p)
			p.Heads = nil // nothing else of it is held in memory
			all = append(all, p)
			s.points = append(s.points, info)
		}
	}
	return all, stopped.err()
}

// signerLabel is whose signature the object of a point bears, "" for nobody's.
func (r *Repository) signerLabel(ctx context.Context, info blob.Info) string {
	b, err := readSized(ctx, r.store, info, maxManifest)
	if err != nil {
		return ""
	}
	sealed, err := r.ring.ParsePoint(info.Name, b)
	if err != nil || sealed.Signer == nil {
		return ""
	}
	return sealed.Signer.Label
}

func (s *survey) readIndexes(ctx context.Context, m *marks) error {
	infos, ids, err := listIndex(ctx, s.r.store, m)
	if err != nil {
		return err
	}
	load := s.index.Loader()
	defer load.Close()
	for _, id := range ids {
		packs, err := s.r.readIndex(ctx, s.r.store, infos[id])
		if errors.Is(err, blob.ErrNotFound) {
			return errRace // it was listed just now
		}
		if err != nil {
			return err
		}
		s.indexes = append(s.indexes, infos[id])
		if packs == nil {
			s.fences[infos[id].Name] = true
		}
		for i := range packs {
			if i == 0 || !bytes.Equal(packs[i].Certificate, packs[i-1].Certificate) {
				s.certified(s.r, packs[i].Certificate)
			}
		}
		if err := load.Add(ctx, id, entriesOf(s.r.ring, packs)); err != nil {
			return err
		}
	}
	return load.Flush(ctx)
}

// damaged takes down a pack that cannot be read: another copy of what it holds is looked
// for, and counts.
func (s *survey) damaged(err error) error {
	s.r.doubt(err)
	var known *objectError
	if errors.As(err, &known) {
		if name, ok := sumOf(known.object); ok {
			s.index.Doubt(name)
			if u := s.packs[name]; u != nil {
				u.bad = true
			}
		}
	}
	return nil
}

func (s *survey) find(_ context.Context, name block.Name) (index.Location, error) {
	loc, ok, err := s.index.Lookup(name)
	if !ok && err == nil {
		err = noBlock(name)
	}
	return loc, err
}

// need notes that a block is needed, and reports whether that is news.
func (s *survey) need(name block.Name) (bool, error) {
	slot, ok, err := s.view.Slot(name)
	if err != nil || !ok {
		return false, errors.Join(err, noBlock(name))
	}
	word, bit := &s.bits[slot/64], uint64(1)<<(slot%64)
	fresh := *word&bit == 0
	*word |= bit
	return fresh, nil
}

// walk notes everything that is under some roots. What was walked over before, below
// another point's root, is passed over.
func (s *survey) walk(ctx context.Context, roots []Root) error {
	w := tree.Walker{
		Load:  s.nodes.load,
		Enter: s.need,
		Leaf: func(_ int64, entries []tree.Entry) error {
			for i := range entries {
				if _, err := s.need(entries[i].Name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for _, root := range roots {
		if err := w.Walk(ctx, tree.Root(root)); err != nil {
			return err
		}
	}
	return nil
}

// count finds out how much of each pack is needed. A block that lies in several packs is
// needed from each, but for copies that are superfluous.
func (s *survey) count() error {
	return s.view.Each(func(slot uint64, places []index.Location) error {
		s.here = s.copies(s.here, places)
		for i := range s.here {
			p := s.packs[s.here[i].Pack]
			p.listed = true
			p.total += int64(s.here[i].BlockLength)
		}
		if s.bits[slot/64]&(1<<(slot%64)) == 0 {
			return nil
		}
		if len(s.here) == 0 {
			return objectErr(packObject(places[0].Pack), fmt.Errorf("%w: missing", wire.ErrDamaged))
		}
		for i := range s.here {
			if c := &s.here[i]; !s.superfluous(c, s.here) {
				s.packs[c.Pack].live += int64(c.BlockLength)
			}
		}
		return nil
	})
}
