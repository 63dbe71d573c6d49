package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
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
	keepers map[keys.Signer]bool // of packs: whether the key is one that may delete anyway
	blind   bool                 // what is damaged is not known
	copies  []index.Location     // of a block: memory of count
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
	s := &survey{r: r, index: x, fences: map[string]bool{}, packs: map[[32]byte]*packUse{}, keepers: map[keys.Signer]bool{}}
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
	if err := s.listPacks(ctx); err != nil {
		return nil, err
	}
	s.view = x.View()
	s.bits = make([]uint64, s.view.Slots()/64+1)
	s.nodes = &nodes{r: r, store: r.store, find: s.find, damaged: s.damaged}
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
		s.sign(packs)
		if err := load.Add(ctx, id, entriesOf(s.r.ring, packs)); err != nil {
			return err
		}
	}
	return load.Flush(ctx)
}

// sign takes down which keys that packs are signed by belong to maintenance.
func (s *survey) sign(packs []pack.Listing) {
	var last []byte
	for i := range packs {
		if bytes.Equal(packs[i].Certificate, last) {
			continue
		}
		last = packs[i].Certificate
		if c, err := s.r.ring.ParseCertificate(last); err == nil {
			s.keepers[c.Signer] = c.Roles.Has(RoleMaintain) && s.r.trust.holds(c.Signer)
		}
	}
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

func (s *survey) listPacks(ctx context.Context) error {
	infos, err := list(ctx, s.r.store, packPrefix)
	if err != nil {
		return err
	}
	bad, all := s.r.doubts.packs()
	s.blind = !all
	for _, info := range infos {
		if name, ok := sumOf(info.Name); ok && packObject(name) == info.Name {
			s.packs[name] = &packUse{info: info, bad: bad[name]}
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
func (s *survey) count(without map[[32]byte]struct{}) error {
	return s.view.Each(func(slot uint64, places []index.Location) error {
		s.copies = s.copies[:0]
		for i := range places {
			if p := s.packs[places[i].Pack]; p != nil {
				p.listed = true
				p.total += int64(places[i].BlockLength)
				s.copies = append(s.copies, places[i])
			}
		}
		if s.bits[slot/64]&(1<<(slot%64)) == 0 {
			return nil
		}
		if len(s.copies) == 0 {
			return objectErr(packObject(places[0].Pack), fmt.Errorf("%w: missing", wire.ErrDamaged))
		}
		for i := range s.copies {
			if c := &s.copies[i]; !s.superfluous(c, without) {
				s.packs[c.Pack].live += int64(c.BlockLength)
			}
		}
		return nil
	})
}

// superfluous tells whether there is a better copy of a block, on the word of a key that
// counts here: that of the same host, or of maintenance, which reads what it stores anew.
// A host that was taken over may list what it likes: that makes no other's copy needless.
func (s *survey) superfluous(c *index.Location, without map[[32]byte]struct{}) bool {
	return !s.blind && slices.ContainsFunc(s.copies, func(o index.Location) bool {
		vouched := o.Signer != index.Location{}.Signer && (o.Signer == c.Signer || s.keepers[keys.Signer(o.Signer)])
		return vouched && o.Pack != c.Pack && s.better(&o, c, without)
	})
}

// better tells whether a block is rather taken from a than from b. That depends on the
// packs alone, so that all maintainers see the same copies as superfluous. What came later
// was stored by somebody who would not, or could not, take the other.
func (s *survey) better(a, b *index.Location, without map[[32]byte]struct{}) bool {
	_, goesA := without[a.Pack]
	_, goesB := without[b.Pack]
	if goesA != goesB {
		return goesB
	}
	x, y := s.packs[a.Pack], s.packs[b.Pack]
	if x.bad != y.bad {
		return y.bad
	}
	return cmp.Or(y.info.Created.Compare(x.info.Created), bytes.Compare(a.Pack[:], b.Pack[:])) < 0
}
