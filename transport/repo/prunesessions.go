package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// What a prune has to do with sessions: it waits for those that may not know of the open
// mark, gives up those that are silent, and clears away what is left of those that are over.

// sessions lists those that are under way, and fences those that were away for longer than
// the grace.
func (p *pruner) sessions(ctx context.Context) error {
	var err error
	if p.all, err = p.r.announcedSessions(ctx, ""); err != nil {
		return err
	}
	if p.alive = underWay(p.all); p.o.DryRun {
		return nil
	}
	for _, s := range slices.Sorted(maps.Keys(p.alive)) {
		if p.now.Sub(p.alive[s].last) <= p.away {
			continue
		}
		if err := p.giveUp(ctx, s); err != nil {
			return fmt.Errorf("give up session %s: %w", s, err)
		}
	}
	return nil
}

// giveUp fences a session and removes its announcement, in this order.
func (p *pruner) giveUp(ctx context.Context, s sid) error {
	if err := p.r.fence(ctx, s); err != nil {
		return err
	}
	// One that the store keeps is fenced once more by each prune, which is no harm.
	if err := p.withdraw(ctx, p.alive[s]); err != nil {
		return err
	}
	delete(p.alive, s)
	p.report.Fenced++
	return nil
}

// withdraw removes what announces a session.
func (p *pruner) withdraw(ctx context.Context, a *announced) error {
	for _, object := range a.objects {
		if _, err := remove(ctx, p.r.store, object); err != nil {
			return err
		}
	}
	return nil
}

// tidy removes what is left of sessions that are over. There is no open mark: of one that
// waits for a session no maintainer removes it.
func (p *pruner) tidy(ctx context.Context) error {
	for _, s := range slices.Sorted(maps.Keys(p.all)) {
		if a := p.all[s]; a.ended {
			if err := p.withdraw(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// fenceVanished fences those sessions that the open mark waits for and that are announced
// no more, though no maintainer has removed what announces them: the points must be read
// when nothing of theirs can come any more. On two maintainers at once that is lost labour.
func (p *pruner) fenceVanished(ctx context.Context, witness []sid) error {
	for _, s := range witness {
		if p.all[s] != nil {
			continue
		}
		if err := p.r.fence(ctx, s); err != nil {
			return fmt.Errorf("give up session %s, which has vanished: %w", s, err)
		}
	}
	return nil
}

// ripe tells, by leaving Waiting empty, whether the open mark may be carried out, if there
// is one: the grace is over, and so is every session that may not know of the mark. Those
// are returned; their points must be found.
func (p *pruner) ripe(ctx context.Context) ([]sid, error) {
	if p.marks.open == nil {
		return nil, nil
	}
	info, err := p.r.store.Stat(ctx, markObject(p.marks.open.number))
	if err != nil {
		return nil, err
	}
	if end := info.Created.Add(p.o.Grace); p.now.Before(end) {
		p.report.Waiting, p.report.Until = "the grace", end
	}
	witness, err := p.witness(ctx, p.marks.open.number)
	if err != nil {
		return nil, err
	}
	// Where lists lag, a session that began soon after the mark may not have seen it.
	soon := info.Created.Add(p.o.Grace / 4)
	for _, s := range slices.Sorted(maps.Keys(p.alive)) {
		if slices.Contains(witness, s) || p.alive[s].first.Before(soon) {
			p.report.Waiting = "session " + string(s)
		}
	}
	if p.report.Waiting != "" || p.o.DryRun {
		return witness, nil
	}
	return witness, p.fenceVanished(ctx, witness)
}

// witness are the sessions that were under way when mark n was there, as whoever looked
// first has written down.
func (p *pruner) witness(ctx context.Context, n uint64) ([]sid, error) {
	seen, there, err := p.r.sessionsAt(ctx, p.r.store, n)
	if there || err != nil {
		return seen, err
	}
	doc := sessionsDoc{Sessions: slices.Sorted(maps.Keys(p.alive))}
	if p.o.DryRun {
		return doc.Sessions, nil
	}
	err = p.r.createJSON(ctx, p.r.store, wire.Mark, markObject(n)+markSessions, doc)
	if err == nil || !errors.Is(err, blob.ErrExists) {
		return doc.Sessions, err
	}
	seen, there, err = p.r.sessionsAt(ctx, p.r.store, n)
	if err == nil && !there {
		err = blob.ErrNotFound // the mark is over
	}
	return seen, err
}
