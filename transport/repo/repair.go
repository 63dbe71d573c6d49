package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Repaired is what a repair did.
type Repaired struct {
	Packs   int      `json:"packs"`   // damaged ones that nothing lists any more
	Blocks  int64    `json:"blocks"`  // saved from them into new packs
	Bytes   int64    `json:"bytes"`   // of those blocks
	Listed  int      `json:"listed"`  // packs that no index object listed any more
	Indexes int      `json:"indexes"` // index objects that were written
	Removed []string `json:"removed"` // objects
	// Decision is the number of what was decided in place of what maintenance has said and
	// nobody can read any more; 0: none was needed.
	Decision uint64 `json:"decision,omitempty"`
	// Kept are damaged objects that the store would not delete, or that hold disk data
	// that a key without the role restore cannot save.
	Kept []string `json:"kept,omitempty"`
}

// repairer does the work of a repair. It goes by the order of all writers: new packs,
// then index objects that list them, and only then are index objects deleted that list
// what is damaged, and last the damaged packs. So it may end anywhere, and two at the
// same time only do the work twice. Sessions need not be waited for: what they have
// reused is found by its name in the new packs, or was lost before.
type repairer struct {
	c       *checker
	session *Session                // makes no point: it keeps prune from what is being written
	bad     map[[32]byte]*packState // nil: missing
	saver   saver
	listing []pack.Listing // for new index objects
	drop    []string       // objects to delete, in order
	unread  []string       // index objects among them that nobody can read
	report  Repaired
}

// repairVM stands for a VM in the session of a repair. No VM has a name like it.
const repairVM = "\x00repair"

// repairAll repairs what the check found, and checks the structure again: what is lost
// now is lost.
func (c *checker) repairAll(ctx context.Context, report CheckReport) (CheckReport, error) {
	p := &repairer{c: c, bad: map[[32]byte]*packState{}}
	p.report.Removed = []string{}
	err := p.run(ctx)
	if err == nil {
		p.report.Decision, err = c.r.mendMarks(ctx)
	}
	if err != nil {
		return report, fmt.Errorf("repair: %w", err)
	}
	after, err := c.r.Check(ctx, CheckOptions{})
	if err != nil {
		return report, fmt.Errorf("check after repair: %w", err)
	}
	report.Lost, report.Repaired = after.Lost, &p.report
	report.Remaining = after.Problems
	return report, nil
}

func (p *repairer) run(ctx context.Context) (err error) {
	if err := p.c.r.Allow(RoleMaintain, "repair"); err != nil {
		return err
	}
	for _, name := range p.c.damagedPacks() {
		state := p.c.packs[name]
		if p.c.index.Doubt(name); p.leave(state) {
			p.report.Kept = append(p.report.Kept, packObject(name))
			continue
		}
		p.bad[name] = state
	}
	if p.session, err = p.c.r.begin(ctx, repairVM, newPointID(p.c.r.now())); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.session.Close()) }()
	if err := p.save(ctx); err != nil {
		return err
	}
	if err := p.relist(ctx); err != nil {
		return err
	}
	p.drop = append(p.drop, p.c.unreadable()...)
	return p.remove(ctx)
}

// leave tells whether a damaged pack is left for who may read it: something in it may
// be saved.
func (p *repairer) leave(state *packState) bool {
	return state != nil && !p.c.r.ring.CanRead() && (state.listing == nil || state.listing.Kind == wire.DataPack)
}

// save stores again what can be read of damaged packs and is nowhere else.
func (p *repairer) save(ctx context.Context) (err error) {
	p.saver = saver{r: p.c.r, have: p.have}
	if p.saver.saved, err = newNameSet(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.saver.saved.close()) }()
	for _, name := range p.c.damagedPacks() {
		if p.bad[name] == nil {
			continue
		}
		if err := p.savePack(ctx, name); err != nil {
			return err
		}
	}
	packs, err := p.saver.finish(ctx)
	p.listing = append(p.listing, packs...)
	p.report.Blocks, p.report.Bytes = p.saver.blocks, p.saver.size
	return err
}

func (p *repairer) savePack(ctx context.Context, name [32]byte) error {
	w, _, err := p.c.r.openWhole(ctx, p.bad[name].info, p.bad[name].listing)
	if err != nil || w == nil || w.key == nil {
		return err
	}
	for i := range w.list.Directory {
		plain, err := w.segment(i)
		if err != nil {
			continue
		}
		if err := p.saver.add(ctx, w.list.Kind, w.list.Directory[i].Blocks, plain); err != nil {
			return err
		}
	}
	return nil
}

// have tells whether this check has read a block whole in another pack. What an index
// object and a directory say of a pack that was not read is no reason to drop a block that
// can be had: a host that was taken over may have put another content under its name.
func (p *repairer) have(b *pack.Block) (bool, error) {
	loc, ok, err := p.c.index.Lookup(b.Name)
	if !ok || err != nil {
		return false, err
	}
	_, bad := p.bad[loc.Pack]
	there := p.c.packs[loc.Pack]
	return !bad && there != nil && there.chosen, nil
}

// relist writes index objects without damaged packs in place of those with, and lists
// what is in none any more. One index object after the other is in memory.
func (p *repairer) relist(ctx context.Context) error {
	var damagedIndex bool
	for _, info := range p.c.indexes {
		packs, err := p.c.r.readIndex(ctx, p.c.r.store, info)
		if passable(err) {
			damagedIndex = true
			p.drop, p.unread = append(p.drop, info.Name), append(p.unread, info.Name)
			continue
		}
		if err != nil {
			return err
		}
		before := len(packs)
		packs = slices.DeleteFunc(packs, func(l pack.Listing) bool { _, bad := p.bad[l.Pack]; return bad })
		if len(packs) < before {
			p.drop = append(p.drop, info.Name)
			if err := p.writeIndex(ctx, packs); err != nil {
				return err
			}
		}
	}
	if damagedIndex || p.c.bad[indexPrefix] != nil {
		if err := p.listUnlisted(ctx); err != nil {
			return err
		}
	}
	return p.writeIndex(ctx, p.listing)
}

// listUnlisted lists the packs that no index object lists, by their own directories, but
// for those that maintenance is deleting.
func (p *repairer) listUnlisted(ctx context.Context) error {
	var names [][32]byte
	m, err := p.c.r.readableMarks(ctx)
	if err != nil {
		return err
	}
	gone := m.gone()
	for name, state := range p.c.packs {
		if _, bad := p.bad[name]; !bad && !state.listed && !gone[packObject(name)] {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, inNames)
	blocks := 0
	for _, name := range names {
		l, err := readDirectory(ctx, p.c.r.store, p.c.r.ring, p.c.packs[name].info)
		if passable(err) {
			continue
		}
		if err != nil {
			return err
		}
		p.listing = append(p.listing, l)
		p.report.Listed++
		for i := range l.Directory {
			blocks += len(l.Directory[i].Blocks)
		}
		if blocks >= p.c.r.limits.index {
			if err := p.writeIndex(ctx, p.listing); err != nil {
				return err
			}
			p.listing, blocks = nil, 0
		}
	}
	return nil
}

func (p *repairer) writeIndex(ctx context.Context, packs []pack.Listing) error {
	if len(packs) == 0 {
		return nil
	}
	name := p.session.sid.index(p.report.Indexes)
	object, err := pack.SealIndex(p.c.r.ring, name, packs)
	if err != nil {
		return err
	}
	if err := p.session.create(ctx, name, object); err != nil {
		return err
	}
	p.report.Indexes++
	return nil
}

// remove deletes what is damaged and not needed any more, index objects before packs. A
// store that holds objects for a time keeps them; nothing lists them any more.
func (p *repairer) remove(ctx context.Context) error {
	for _, name := range p.c.damagedPacks() {
		state, ours := p.bad[name]
		if !ours {
			continue
		}
		if state != nil {
			p.drop = append(p.drop, packObject(name))
		}
		p.report.Packs++
	}
	for _, object := range p.drop {
		if err := p.stopWriter(ctx, object); err != nil {
			return err
		}
		err := p.c.r.store.Delete(ctx, object)
		switch {
		case err == nil:
			p.report.Removed = append(p.report.Removed, object)
			if !slices.Contains(p.unread, object) {
				continue
			}
			if err := p.keepFenced(ctx, object); err != nil {
				return err
			}
		case errors.Is(err, blob.ErrDenied):
			p.report.Kept = append(p.report.Kept, object)
			if strings.HasPrefix(object, indexPrefix) {
				return fmt.Errorf("delete %s: %w", object, err) // it would go on listing what is damaged
			}
		default:
			return fmt.Errorf("delete %s: %w", object, err)
		}
	}
	return nil
}

// saver puts saved blocks into new packs, of disk data and of map nodes.
type saver struct {
	r     *Repository
	have  func(*pack.Block) (bool, error) // whole elsewhere
	saved *nameSet

	open   map[wire.Kind]*pack.Writer
	packs  []pack.Listing
	verify pack.Scratch
	blocks int64
	size   int64
}

// add saves those blocks of an opened segment that are nowhere else.
func (s *saver) add(ctx context.Context, kind wire.Kind, blocks []pack.Block, plain []byte) error {
	var keep []pack.Block
	var data []byte
	for i := range blocks {
		b := &blocks[i]
		have, err := s.have(b)
		if err == nil && !have {
			have, err = s.saved.has(b.Name)
		}
		if err != nil {
			return err
		}
		if !have {
			keep, data = append(keep, *b), append(data, plain[:b.Length]...)
			if err := s.saved.add(ctx, b.Name); err != nil {
				return err
			}
		}
		plain = plain[b.Length:]
	}
	if len(keep) == 0 {
		return nil
	}
	s.blocks += int64(len(keep))
	s.size += int64(len(data))
	return s.seal(ctx, kind, keep, data)
}

func (s *saver) seal(ctx context.Context, kind wire.Kind, blocks []pack.Block, data []byte) error {
	packed := s.r.codec.Pack(nil, data)
	for {
		w, err := s.writer(kind)
		if err != nil {
			return err
		}
		if place, ok := w.Reserve(len(packed), blocks); ok {
			_, err := w.Fill(place, packed, data, &s.verify)
			return err
		}
		if err := s.store(ctx, kind); err != nil {
			return err
		}
	}
}

// writer is the pack at hand of a kind.
func (s *saver) writer(kind wire.Kind) (*pack.Writer, error) {
	if w := s.open[kind]; w != nil {
		return w, nil
	}
	size := s.r.limits.dataPack
	if kind == wire.NodePack {
		size = s.r.limits.nodePack
	}
	w, err := s.r.newPack(kind, make([]byte, 0, size))
	if err != nil {
		return nil, err
	}
	if s.open == nil {
		s.open = map[wire.Kind]*pack.Writer{}
	}
	s.open[kind] = w
	return w, nil
}

// store finishes the pack at hand of a kind.
func (s *saver) store(ctx context.Context, kind wire.Kind) error {
	w := s.open[kind]
	delete(s.open, kind)
	w.Close()
	p, err := w.Finish(s.r.ring)
	if err != nil {
		return err
	}
	if err := s.r.store.Create(ctx, packObject(p.Pack), p.Bytes); err != nil {
		return fmt.Errorf("store %s: %w", packObject(p.Pack), err)
	}
	s.packs = append(s.packs, p.Listing)
	return nil
}

// finish stores what is left, and returns what the new packs list.
func (s *saver) finish(ctx context.Context) ([]pack.Listing, error) {
	for _, kind := range []wire.Kind{wire.DataPack, wire.NodePack} {
		if s.open[kind] != nil {
			if err := s.store(ctx, kind); err != nil {
				return nil, err
			}
		}
	}
	return s.packs, nil
}
