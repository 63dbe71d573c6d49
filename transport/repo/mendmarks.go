package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// mendMarks makes a decision in place of what maintenance has said and nobody can read any
// more, which keeps everybody from writing. It returns the number of the new decision, or 0
// where none was needed. It may end anywhere: whoever comes next finds what there is to do.
// It takes no lease, for a prune could do nothing: of two at once one makes the decision.
func (r *Repository) mendMarks(ctx context.Context) (decided uint64, err error) {
	list, err := r.listMarks(ctx, r.store)
	if err != nil || list.top == 0 {
		return 0, err
	}
	p := r.pruner(PruneOptions{Grace: -1, Keep: 100})
	p.now = r.now()
	m, err := list.read(ctx, nil)
	switch {
	case err == nil && m.open != nil:
		// What the mark waits for may be there, and not readable.
		if _, _, err = r.sessionsAt(ctx, r.store, m.open.number); !passable(err) {
			return 0, err
		}
		return m.open.number, p.drop(ctx, m)
	case !passable(err):
		return 0, err
	case m != nil: // but for an open mark
		return list.top, p.drop(ctx, m)
	}
	return p.decideAnew(ctx, list)
}

// drop decides that nothing of the open mark goes: the next mark says it anew.
func (p *pruner) drop(ctx context.Context, m *marks) error {
	d := &decision{Number: m.done + 1}
	if m.last != nil {
		d.Index, d.Drop = m.last.Index, m.last.Drop
	}
	err := p.r.createJSON(ctx, p.r.store, wire.Mark, markObject(d.Number)+markDone, d)
	if errors.Is(err, blob.ErrExists) {
		return errRace
	}
	if err != nil {
		return err
	}
	return p.finish(ctx, d)
}

// decideAnew makes a decision where the newest cannot be read. Every index object counts
// then, but for what it lists of packs that are not there any more. Packs that are there
// and that the lost decision may have named go, if nothing needs them, or else who is still
// at that decision could delete them when they are needed again: all that a mark named
// which is there, as a mark goes when its packs are gone. No new session has come since the
// damage; those under way may count on such packs, and are given up.
func (p *pruner) decideAnew(ctx context.Context, list *markList) (n uint64, err error) {
	n, fresh, err := list.next(ctx)
	if err != nil {
		return 0, err
	}
	doomed, err := p.doomed(ctx, list)
	if err != nil {
		return 0, err
	}
	if fresh {
		doc := markDoc{Number: n}
		for _, name := range slices.SortedFunc(maps.Keys(doomed), inNames) {
			doc.Dead = append(doc.Dead, name[:]...)
		}
		if err := p.r.createJSON(ctx, p.r.store, wire.Mark, markObject(n), doc); err != nil {
			return 0, err
		}
	}
	p.marks = &marks{done: n - 1, unread: true, open: &mark{number: n, packs: doomed}}
	given, err := p.giveUpAll(ctx, len(doomed) > 0)
	if err != nil {
		return 0, err
	}
	if p.survey, err = p.r.survey(ctx, p.marks, given); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.survey.close()) }()
	if err := p.survey.count(); err != nil {
		return 0, err
	}
	return n, p.decide(ctx)
}

// giveUpAll lists the sessions that are under way, and gives them up if that is due.
func (p *pruner) giveUpAll(ctx context.Context, due bool) (given []sid, err error) {
	p.away = math.MaxInt64
	if err := p.sessions(ctx); err != nil || !due {
		return nil, err
	}
	given = slices.Sorted(maps.Keys(p.alive))
	for _, s := range given {
		if err := p.giveUp(ctx, s); err != nil {
			return nil, fmt.Errorf("give up session %s: %w", s, err)
		}
	}
	return given, nil
}

// next is the number of the decision that can be made, and whether its mark must be.
func (l *markList) next(ctx context.Context) (n uint64, fresh bool, err error) {
	_, done, err := l.find(ctx, markObject(l.top)+markDone)
	if err != nil || !done {
		return l.top, false, err
	}
	if l.top == math.MaxUint64 {
		return 0, false, objectErr(markObject(l.top)+markDone, fmt.Errorf("%w: there is no greater number", wire.ErrDamaged))
	}
	return l.top + 1, true, nil
}

// maxDoomed bounds the packs of a mark that is made of others: what it has room for.
const maxDoomed = maxMark / 64

// errDoomed: to leave some of the packs out would let who is still at the lost decision delete
// what is needed again by then.
var errDoomed error = doomedError{}

type doomedError struct{}

func (doomedError) Error() string {
	return fmt.Sprintf("more than %d packs may have been marked, and one mark has no room for them", maxDoomed)
}

// Hint is the next step for the administrator.
func (doomedError) Hint() string {
	return "get back from a copy of the store what lies under " + markPrefix
}

// doomed are the packs that marks name which are still there, each once; all packs when such a
// mark cannot be read.
func (p *pruner) doomed(ctx context.Context, l *markList) (map[[32]byte]struct{}, error) {
	all := map[[32]byte]struct{}{}
	for _, object := range slices.Sorted(maps.Keys(l.infos)) {
		n, part, ok := cutMark(object)
		if !ok || part != "" {
			continue
		}
		m, err := l.open(ctx, n, nil)
		if passable(err) {
			return p.allPacks(ctx)
		}
		if err != nil {
			return nil, err
		}
		if maps.Copy(all, m.packs); len(all) > maxDoomed {
			return nil, errDoomed
		}
	}
	return all, nil
}

func (p *pruner) allPacks(ctx context.Context) (map[[32]byte]struct{}, error) {
	infos, err := list(ctx, p.r.store, packPrefix)
	if err != nil {
		return nil, err
	}
	all := map[[32]byte]struct{}{}
	for _, i := range infos {
		if name, ok := sumOf(i.Name); ok {
			all[name] = struct{}{}
		}
	}
	if len(all) > maxDoomed {
		return nil, errDoomed
	}
	return all, nil
}
