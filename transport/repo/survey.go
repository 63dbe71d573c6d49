package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"

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

	points  []blob.Info     // that were read
	indexes []blob.Info     // that count
	fences  map[string]bool // among them
	packs   map[[32]byte]*packUse
}

// packUse is how much of a pack is needed.
type packUse struct {
	info   blob.Info
	listed bool  // in an index object
	bad    bool  // known to be damaged
	total  int64 // bytes of blocks, unpacked
	live   int64 // of those that are needed, from this pack
}

// survey reads what there is, and walks the maps of all points. witness are sessions
// whose points are looked for by name, whatever a list says.
func (r *Repository) survey(ctx context.Context, m *marks, witness []sid) (_ *survey, err error) {
	x, err := index.Open("")
	if err != nil {
		return nil, err
	}
	s := &survey{r: r, index: x, fences: map[string]bool{}, packs: map[[32]byte]*packUse{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("survey repository: %w", err), x.Close())
		}
	}()
	// Points, then index objects, then packs: whatever a point needs is listed after it.
	points, err := s.readPoints(ctx, witness)
	if err != nil {
		return nil, err
	}
	if err := s.readIndexes(ctx, m); err != nil {
		return nil, err
	}
	if err := s.listPacks(ctx); err != nil {
		return nil, err
	}
	s.view = x.View()
	s.bits = make([]uint64, s.view.Slots()/64+1)
	s.nodes = &nodes{r: r, store: r.store, find: s.find, damaged: func(error) error { return nil }}
	for i, roots := range points {
		if err := s.walk(ctx, roots); err != nil {
			return nil, fmt.Errorf("%s: %w", s.points[i].Name, err)
		}
	}
	return s, nil
}

func (s *survey) close() error { return s.index.Close() }

// readPoints reads all manifests. One that cannot be read ends the survey: nobody knows
// what it needs.
func (s *survey) readPoints(ctx context.Context, witness []sid) (all [][]Root, err error) {
	infos, err := list(ctx, s.r.store, pointPrefix)
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
	for _, info := range infos {
		p, err := s.r.readPoint(ctx, s.r.store, info)
		if errors.Is(err, errFence) || errors.Is(err, blob.ErrNotFound) {
			continue // never to be, or forgotten meanwhile
		}
		if err != nil {
			return nil, err
		}
		var roots []Root
		for root := range p.roots() {
			roots = append(roots, root)
		}
		all = append(all, roots)
		s.points = append(s.points, info)
	}
	return all, nil
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
		if err != nil {
			return err
		}
		s.indexes = append(s.indexes, infos[id])
		if packs == nil {
			s.fences[infos[id].Name] = true
		}
		if err := load.Add(ctx, id, entriesOf(s.r.ring, packs)); err != nil {
			return err
		}
	}
	return load.Flush(ctx)
}

func (s *survey) listPacks(ctx context.Context) error {
	infos, err := list(ctx, s.r.store, packPrefix)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if name, ok := sumOf(info.Name); ok && packObject(name) == info.Name {
			s.packs[name] = &packUse{info: info, bad: s.r.doubts.has(info.Name)}
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
// needed from one of them: none of those that are without, if that can be.
func (s *survey) count(without map[[32]byte]struct{}) error {
	return s.view.Each(func(slot uint64, places []index.Location) error {
		needed := s.bits[slot/64]&(1<<(slot%64)) != 0
		var best *index.Location
		for i := range places {
			p := s.packs[places[i].Pack]
			if p == nil {
				continue
			}
			p.listed = true
			p.total += int64(places[i].BlockLength)
			if needed && (best == nil || s.better(&places[i], best, without)) {
				best = &places[i]
			}
		}
		if !needed {
			return nil
		}
		if best == nil {
			return objectErr(packObject(places[0].Pack), fmt.Errorf("%w: missing", wire.ErrDamaged))
		}
		s.packs[best.Pack].live += int64(best.BlockLength)
		return nil
	})
}

// better tells whether a block is rather taken from a than from b. That depends on the
// packs alone, so that all maintainers see the same copies as superfluous.
func (s *survey) better(a, b *index.Location, without map[[32]byte]struct{}) bool {
	_, goesA := without[a.Pack]
	_, goesB := without[b.Pack]
	if goesA != goesB {
		return goesB
	}
	if x, y := s.packs[a.Pack].bad, s.packs[b.Pack].bad; x != y {
		return y
	}
	return bytes.Compare(a.Pack[:], b.Pack[:]) < 0
}
