package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// DefaultGrace is how long what is marked stays, and how long a session may be away.
const DefaultGrace = 24 * time.Hour

// PruneOptions say how a prune goes about it.
type PruneOptions struct {
	// Grace is how long a mark waits before it is carried out, by the store's time, and
	// after how long a session that does not renew itself is given up. It is for restores
	// that are under way, and for stores whose lists lag: backups are safe without. 0:
	// DefaultGrace; below 0: none, and sessions are given up at once.
	Grace time.Duration
	// DryRun looks, and changes nothing.
	DryRun bool
	// Keep is the unused share of the repository that is not worth rewriting packs for,
	// in percent; 0: 10, below 0: none. 100: no pack is rewritten.
	Keep int
	// Recompress is how many bytes of packs may be read and written anew because they
	// would be smaller when compressed as with CompressBest; 0: none. It needs the role
	// restore. Old and new are both in the store until the grace is over.
	Recompress int64
}

// PruneReport is what a prune did, or would do.
type PruneReport struct {
	Points int   `json:"points"`
	Packs  int   `json:"packs"`  // in the store, before
	Stored int64 `json:"stored"` // bytes of them
	Unused int64 `json:"unused"` // of those, estimated

	Deleted      int   `json:"deleted"` // packs that a mark named and nothing needs
	DeletedBytes int64 `json:"deleted_bytes"`
	Marked       int   `json:"marked"` // packs that go after the grace
	MarkedBytes  int64 `json:"marked_bytes"`
	Rewritten    int   `json:"rewritten"`    // of them, whose blocks were put into others
	Moved        int64 `json:"moved"`        // bytes of those blocks
	Recompressed int   `json:"recompressed"` // packs that were compressed anew
	Saved        int64 `json:"saved"`        // bytes by that, once the old ones are deleted
	Indexes      int   `json:"indexes"`      // index objects that were put together
	Fenced       int   `json:"fenced"`       // sessions given up

	// Locked are packs that nothing needs and that the store keeps, the first of them until
	// LockedUntil; zero: it does not say.
	Locked      int       `json:"locked,omitempty"`
	LockedBytes int64     `json:"locked_bytes,omitempty"`
	LockedUntil time.Time `json:"locked_until,omitzero"`

	// Ignored are names below leases/ under which something lies that no key of the
	// repository has signed, or that no lease has: somebody else writes there. At most 16.
	Ignored []string `json:"ignored,omitempty"`

	// Waiting says what the open mark waits for, and until when at least; empty: nothing.
	Waiting string    `json:"waiting,omitempty"`
	Until   time.Time `json:"until,omitzero"`
}

var errRace = errors.New("another maintainer was faster")

// Prune deletes what no restore point needs, in two phases: it carries out what an earlier
// prune has marked, if the grace is over and no session can need it any more, and marks
// what nothing needs now. It may be interrupted at any moment and run at the same time on
// several hosts, and never makes a backup wait. It needs the role maintain; rewriting packs
// needs restore too. ErrBusy: another host prunes.
func (r *Repository) Prune(ctx context.Context, o PruneOptions) (PruneReport, error) {
	if err := r.Allow(RoleMaintain, "prune"); err != nil {
		return PruneReport{}, err
	}
	if o.Recompress > 0 {
		if err := r.mayRecompress(); err != nil {
			return PruneReport{}, err
		}
	}
	p := r.pruner(o)
	err := p.leased(ctx)
	if errors.Is(err, errRace) {
		p.report.Waiting, err = errRace.Error(), nil
	}
	if err != nil {
		return p.report, fmt.Errorf("prune: %w", err)
	}
	return p.report, nil
}

func (r *Repository) pruner(o PruneOptions) *pruner {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Keep == 0 {
		o.Keep = 10
	}
	o.Grace, o.Keep = max(o.Grace, 0), max(o.Keep, 0)
	return &pruner{r: r, o: o, away: o.Grace, locks: locks{store: r.store}}
}

// pruner is one prune under way.
type pruner struct {
	r      *Repository
	o      PruneOptions
	away   time.Duration // after which a session is given up
	now    time.Time     // of the store
	marks  *marks
	all    map[sid]*announced // sessions, those that are over too
	alive  map[sid]*announced // those under way
	survey *survey
	locks  locks
	report PruneReport
}

func (p *pruner) leased(ctx context.Context) error {
	if p.o.DryRun {
		p.now = p.r.now()
		return p.run(ctx)
	}
	ctx, l, err := p.r.lease(ctx, "prune")
	if err != nil {
		return err
	}
	defer l.release(ctx)
	p.now, p.report.Ignored = l.now(), l.ignored
	return p.run(ctx)
}

func (p *pruner) run(ctx context.Context) (err error) {
	if p.marks, err = p.r.refresh(ctx, p.r.store); err != nil {
		return err
	}
	if p.marks.last != nil && !p.o.DryRun {
		if err := p.finish(ctx, p.marks.last); err != nil {
			return err
		}
	}
	if err := p.sessions(ctx); err != nil {
		return err
	}
	witness, err := p.ripe(ctx)
	if err != nil || p.report.Waiting != "" && !p.o.DryRun {
		return err
	}
	if p.survey, err = p.r.survey(ctx, p.marks, witness); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.survey.close()) }()
	if err := p.survey.count(); err != nil {
		return err
	}
	p.describe()
	if p.o.DryRun {
		return p.foresee(ctx)
	}
	if p.marks.open != nil {
		if err := p.decide(ctx); err != nil {
			return err
		}
	}
	if err := p.tidy(ctx); err != nil {
		return err
	}
	return p.mark(ctx)
}

// describe takes down what there is.
func (p *pruner) describe() {
	p.report.Points, p.report.Packs = len(p.survey.points), len(p.survey.packs)
	for _, u := range p.survey.packs {
		p.report.Stored += u.info.Size
		p.report.Unused += u.unused()
	}
}

// unused is how many bytes of the pack nothing needs, about.
func (u *packUse) unused() int64 {
	if u.total == 0 {
		return u.info.Size
	}
	return int64(float64(u.info.Size) * float64(u.total-u.live) / float64(u.total))
}

// foresee says what a prune would do now.
func (p *pruner) foresee(ctx context.Context) error {
	for name, u := range p.survey.packs {
		if u.live > 0 {
			continue
		}
		if locked, err := p.locked(ctx, u); err != nil || locked {
			if err != nil {
				return err
			}
			continue
		}
		if p.marks.open != nil {
			if _, marked := p.marks.open.packs[name]; marked && p.report.Waiting == "" {
				p.report.Deleted++
				p.report.DeletedBytes += u.info.Size
				continue
			}
		}
		p.report.Marked++
		p.report.MarkedBytes += u.info.Size
	}
	for _, name := range p.thin() {
		p.report.Rewritten++
		p.report.Moved += p.survey.packs[name].live
	}
	return p.foreseeRecompressed(ctx)
}

// mark names what nothing needs now, for a later prune to delete. There is no open mark.
func (p *pruner) mark(ctx context.Context) error {
	var doc markDoc
	for _, name := range p.inOrder() {
		u := p.survey.packs[name]
		if u.live > 0 || len(doc.Dead) >= 32*maxMarkedPacks {
			continue
		}
		locked, err := p.locked(ctx, u)
		if err != nil {
			return err
		}
		if locked {
			continue // and of use to sessions meanwhile
		}
		doc.Dead = append(doc.Dead, name[:]...)
		p.report.Marked++
		p.report.MarkedBytes += u.info.Size
	}
	thin, err := p.rewriteThin(ctx)
	if err != nil {
		return err
	}
	for _, name := range thin {
		doc.Thin = append(doc.Thin, name[:]...)
		p.report.Marked++
		p.report.MarkedBytes += p.survey.packs[name].info.Size
	}
	if len(doc.Dead)+len(doc.Thin) == 0 && len(p.small()) < manyIndexes {
		return nil
	}
	for _, i := range p.survey.points {
		h := hashPoint(i.Name)
		doc.Points = append(doc.Points, h[:]...)
	}
	doc.Number = p.marks.done + 1
	return p.putMark(ctx, doc)
}

// locked tells whether the store keeps a pack, and takes that down.
func (p *pruner) locked(ctx context.Context, u *packUse) (bool, error) {
	until, err := p.locks.until(ctx, u.info.Name, p.now)
	if err != nil || until.IsZero() {
		return false, err
	}
	p.kept(u.info, until)
	return true, nil
}

func (p *pruner) kept(pack blob.Info, until time.Time) {
	p.report.Locked++
	p.report.LockedBytes += pack.Size
	p.report.LockedUntil = sooner(p.report.LockedUntil, until)
}

// rewriteThin rewrites the packs that are worth it, but for those that the store keeps:
// that would free nothing.
func (p *pruner) rewriteThin(ctx context.Context) ([][32]byte, error) {
	var free [][32]byte
	for _, name := range p.thin() {
		locked, err := p.locked(ctx, p.survey.packs[name])
		if err != nil {
			return nil, err
		}
		if !locked {
			free = append(free, name)
		}
	}
	thin, err := p.rewrite(ctx, free)
	if err != nil {
		return nil, err
	}
	again, err := p.recompress(ctx, thin)
	return append(thin, again...), err
}

func (p *pruner) putMark(ctx context.Context, doc markDoc) error {
	object := markObject(doc.Number)
	err := p.r.createJSON(ctx, p.r.store, wire.Mark, object, doc)
	if errors.Is(err, blob.ErrExists) {
		return errRace
	}
	if err != nil {
		return err
	}
	// Only a session that is listed now may not know of the mark.
	p.report.Waiting, p.report.Until = "the grace", p.now.Add(p.o.Grace)
	all, err := p.r.announcedSessions(ctx, "")
	if err != nil {
		return err
	}
	doubtful := sessionsDoc{slices.Sorted(maps.Keys(underWay(all)))}
	err = p.r.createJSON(ctx, p.r.store, wire.Mark, object+markSessions, doubtful)
	if errors.Is(err, blob.ErrExists) {
		return nil
	}
	return err
}

// inOrder are the packs, the same order at each run.
func (p *pruner) inOrder() [][32]byte {
	return slices.SortedFunc(maps.Keys(p.survey.packs), inNames)
}

// inNames is the order of packs by their names.
func inNames(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) }

// thin are the packs that are worth to be rewritten: the emptiest first, until what
// remains unused is a small share of everything, and none of which more than two thirds is
// needed: that would move more than it frees.
func (p *pruner) thin() [][32]byte {
	var all [][32]byte
	var unused, stored int64
	for _, name := range p.inOrder() {
		u := p.survey.packs[name]
		if u.live == 0 {
			continue
		}
		stored += u.info.Size
		unused += u.unused()
		if u.live*3 <= u.total*2 && !u.bad {
			all = append(all, name)
		}
	}
	slices.SortStableFunc(all, func(a, b [32]byte) int {
		x, y := p.survey.packs[a], p.survey.packs[b]
		return cmp.Compare(float64(x.live)/float64(x.total), float64(y.live)/float64(y.total))
	})
	n := 0
	for n < len(all) && unused*100 > stored*int64(p.o.Keep) {
		unused -= p.survey.packs[all[n]].unused()
		n++
	}
	return all[:n]
}
