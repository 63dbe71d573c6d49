package repo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const (
	// smallIndex is what an index object has at least that is left as it is, in bytes.
	smallIndex = 4 << 20
	// manyIndexes is how many smaller ones are put together.
	manyIndexes = 32
	// indexBatch is how much of index objects goes into a new one, in bytes: what a
	// prune holds of them at a time, opened.
	indexBatch = 16 << 20
)

// decide carries the open mark out: what of it nothing needs now is no part of the
// repository from the moment that the decision is there, and is deleted then. No point can
// come to need it: the sessions that may not know of the mark are over, and the others
// steer clear of it.
func (p *pruner) decide(ctx context.Context) error {
	d := &decision{Number: p.marks.open.number}
	doomed := map[[32]byte]bool{}
	for _, name := range p.inOrder() {
		if _, marked := p.marks.open.packs[name]; marked && p.survey.packs[name].live == 0 {
			d.Packs = append(d.Packs, name[:]...)
			doomed[name] = true
		}
	}
	if err := p.gather(ctx, d, doomed); err != nil {
		return err
	}
	object := markObject(d.Number) + markDone
	err := p.r.createJSON(ctx, p.r.store, wire.Mark, object, d)
	if errors.Is(err, blob.ErrExists) {
		return errRace
	}
	if err != nil {
		return err
	}
	if void, err := p.void(ctx, d.Number); err != nil || void {
		if void {
			err = errors.Join(errRace, p.r.store.Delete(ctx, object))
		}
		return err
	}
	if err := p.finish(ctx, d); err != nil {
		return err
	}
	for name := range doomed {
		delete(p.survey.packs, name)
	}
	p.marks, err = p.r.refresh(ctx, p.r.store)
	if err == nil && (p.marks.open != nil || p.marks.done != d.Number) {
		err = errRace
	}
	return err
}

// small are the index objects that are worth to be put together.
func (p *pruner) small() (objects []blob.Info) {
	for _, i := range p.survey.indexes {
		if i.Size < smallIndex && i.Size > 0 && p.over(i.Name) && !p.fences(i) {
			objects = append(objects, i)
		}
	}
	return objects
}

// over tells whether nobody writes more index objects beside this one: it is maintenance's,
// or its session is over.
func (p *pruner) over(object string) bool {
	s, _, ok := cutSID(object, indexPrefix)
	if !ok {
		return true
	}
	_, alive := p.alive[s]
	return !alive
}

func (p *pruner) fences(i blob.Info) bool { return p.survey.fences[i.Name] }

// gather puts small index objects, and those that list packs that are gone, into new ones,
// and says so in the decision.
func (p *pruner) gather(ctx context.Context, d *decision, doomed map[[32]byte]bool) error {
	small := p.small()
	merge := map[string]bool{}
	if len(small) >= manyIndexes {
		for _, i := range small {
			merge[i.Name] = true
		}
	}
	g := gatherer{p: p, d: d}
	for _, i := range p.survey.indexes {
		if p.fences(i) || !p.over(i.Name) {
			continue
		}
		packs, err := p.r.readIndex(ctx, p.r.store, i)
		if err != nil {
			return err
		}
		kept := slices.DeleteFunc(slices.Clone(packs), func(l pack.Listing) bool {
			return doomed[l.Pack] || p.survey.packs[l.Pack] == nil
		})
		if len(kept) == len(packs) && !merge[i.Name] {
			if isMaintenance(i.Name) {
				d.Index = append(d.Index, i.Name)
			}
			continue
		}
		d.Drop = append(d.Drop, i.Name)
		if err := g.add(ctx, kept, i.Size); err != nil {
			return err
		}
	}
	p.report.Indexes = len(d.Drop)
	if err := p.carry(ctx, d); err != nil {
		return err
	}
	return g.flush(ctx)
}

// carry takes over what the decision before has dropped and is still there: the store keeps
// it locked, or a creation came twice.
func (p *pruner) carry(ctx context.Context, d *decision) error {
	if p.marks.last == nil || len(p.marks.last.Drop) == 0 {
		return nil
	}
	infos, err := list(ctx, p.r.store, indexPrefix)
	if err != nil {
		return err
	}
	there := listedOf(infos)
	for _, object := range p.marks.last.Drop {
		if _, is := there[object]; is {
			d.Drop = append(d.Drop, object)
		}
	}
	return nil
}

// gatherer writes new index objects.
type gatherer struct {
	p     *pruner
	d     *decision
	packs []pack.Listing
	size  int64
}

func (g *gatherer) add(ctx context.Context, packs []pack.Listing, size int64) error {
	if len(packs) == 0 {
		return nil
	}
	if g.size+size > indexBatch {
		if err := g.flush(ctx); err != nil {
			return err
		}
	}
	g.packs, g.size = append(g.packs, packs...), g.size+size
	return nil
}

// flush puts an index object into the store. It counts only when the decision names it, so
// its name is one that no other maintainer's attempt at the same decision has.
func (g *gatherer) flush(ctx context.Context) error {
	if len(g.packs) == 0 {
		return nil
	}
	var salt [8]byte
	rand.Read(salt[:])
	name := maintenanceIndex(g.d.Number, salt)
	object, err := pack.SealIndex(g.p.r.ring, name, g.packs)
	if err != nil {
		return err
	}
	if err := g.p.r.store.Create(ctx, name, object); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	g.d.Index = append(g.d.Index, name)
	g.packs, g.size = nil, 0
	return nil
}

// void tells whether a decision came too late: another one is newer.
func (p *pruner) void(ctx context.Context, n uint64) (bool, error) {
	infos, err := list(ctx, p.r.store, markPrefix)
	if err != nil {
		return false, err
	}
	for _, i := range infos {
		if m, _, ok := cutMark(i.Name); ok && m > n {
			return true, nil
		}
	}
	return false, nil
}

// finish deletes what the newest decision says: index objects, then packs, then the mark,
// which stays so long as anything else may be left. Any maintainer may, any number of
// times: none of these names comes again. What the store keeps locked is left for later;
// it is no part of the repository any more.
func (p *pruner) finish(ctx context.Context, d *decision) error {
	if _, err := p.r.store.Stat(ctx, markObject(d.Number)); errors.Is(err, blob.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	indexes, err := list(ctx, p.r.store, indexPrefix)
	if err != nil {
		return err
	}
	all := true
	drop, made := namesOf(d.Drop), namesOf(d.Index)
	for _, i := range indexes {
		if drop[i.Name] || !made[i.Name] && madeBy(d.Number, i.Name) {
			gone, err := remove(ctx, p.r.store, i.Name)
			if err != nil {
				return err
			}
			all = all && gone
		}
	}
	gone, err := p.deletePacks(ctx, d)
	if err != nil || !all || !gone {
		return err
	}
	return p.deleteMarks(ctx, d.Number)
}

// namesOf is the set of some names: a decision may list as many as there are index objects.
func namesOf(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// madeBy tells that maintenance made an index object for the decision n or one before: if
// that does not name it, it went otherwise.
func madeBy(n uint64, object string) bool {
	number, ok := strings.CutPrefix(object, indexPrefix+"m")
	return ok && len(number) > markDigits && number[:markDigits] <= markObject(n)[len(markPrefix):]
}

// deletePacks reports whether all packs of a decision are gone.
func (p *pruner) deletePacks(ctx context.Context, d *decision) (all bool, err error) {
	if len(d.Packs) == 0 {
		return true, nil
	}
	infos, err := list(ctx, p.r.store, packPrefix)
	if err != nil {
		return false, err
	}
	all = true
	there := listedOf(infos)
	for name := range slices.Chunk(d.Packs, 32) {
		info, ok := there[packObject([32]byte(name))]
		if !ok {
			continue
		}
		gone, err := remove(ctx, p.r.store, info.Name)
		if err != nil {
			return false, err
		}
		if !gone {
			all = false
			continue
		}
		p.report.Deleted++
		p.report.DeletedBytes += info.Size
	}
	return all, nil
}

// deleteMarks removes what is left of marks up to n, but for the decision n.
func (p *pruner) deleteMarks(ctx context.Context, n uint64) error {
	infos, err := list(ctx, p.r.store, markPrefix)
	if err != nil {
		return err
	}
	last := markObject(n)
	for _, i := range infos {
		m, part, ok := cutMark(i.Name)
		if !ok || m > n || i.Name == last || m == n && part == markDone {
			continue
		}
		if _, err := remove(ctx, p.r.store, i.Name); err != nil {
			return err
		}
	}
	_, err = remove(ctx, p.r.store, last)
	return err
}
