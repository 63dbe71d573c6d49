package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const (
	// recompressLevel is how hard packs are compressed anew: what it costs is paid once, by
	// who chooses the time.
	recompressLevel = pack.Highest
	// worthShare is the part of a pack that compressing it anew must save: one in so many.
	// Less is not worth to have it twice in the store for the length of a grace.
	worthShare = 20
	// samples are the segments of a pack that are tried.
	samples = 2
	// recompressors is how many packs are worked on at once, at most. Each takes the memory
	// of a pack as it is stored, and of some segments.
	recompressors = 4
)

// mayRecompress fails with a clear line when this key cannot.
func (r *Repository) mayRecompress() error {
	if r.ring.CanRead() {
		return nil
	}
	return r.Allow(RoleRestore, "compress anew, for it cannot read what is stored")
}

// recompression is the work on packs that were compressed for speed. Which these are is not
// written down anywhere, so some segments of each are tried; what was found not to be worth
// it is noted on this host.
type recompression struct {
	p      *pruner
	judged *judged
	saved  func(pack int64) // hears of an estimate, in bytes; under mu

	mu   sync.Mutex
	left int64 // bytes that may still be read or written anew
	done [][32]byte
	bad  []error
}

// recompress puts what is needed of packs that would be smaller into new ones, but for those
// that are being rewritten anyway, and returns those that it did so for. As with rewrite, a
// session that makes no point does it.
func (p *pruner) recompress(ctx context.Context, but [][32]byte) (done [][32]byte, err error) {
	names := p.compressible(but)
	if len(names) == 0 {
		return nil, nil
	}
	s, err := p.r.begin(ctx, maintenance, newPointID(p.r.now()))
	if err != nil {
		return nil, fmt.Errorf("compress packs anew: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	s.data.pace.ladder = []pack.Level{recompressLevel}
	c := p.recompression()
	err = c.each(ctx, names, func(ctx context.Context, name [32]byte) error { return p.rewriteWhole(ctx, s, name) })
	if err == nil {
		err = s.flush(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("compress packs anew: %w", err)
	}
	for _, err := range c.bad {
		p.r.doubt(err)
	}
	if p.report.Recompressed = len(c.done); len(c.done) > 0 {
		p.report.Saved = -s.Stats().Stored
	}
	for _, name := range c.done {
		p.report.Saved += p.survey.packs[name].info.Size
	}
	slices.SortFunc(c.done, inNames)
	c.judged.save(p.survey.packs)
	return c.done, nil
}

// foreseeRecompressed says what recompress would do.
func (p *pruner) foreseeRecompressed(ctx context.Context) error {
	c := p.recompression()
	c.saved = func(n int64) { p.report.Saved += n }
	err := c.each(ctx, p.compressible(p.thin()), func(context.Context, [32]byte) error { return nil })
	p.report.Recompressed = len(c.done)
	return err
}

func (p *pruner) recompression() *recompression {
	return &recompression{p: p, left: p.o.Recompress, judged: loadJudged(p.r.cache), saved: func(int64) {}}
}

// compressible are the packs that may be worth it, in no order: whatever the budget, all have
// their turn in the end.
func (p *pruner) compressible(but [][32]byte) (names [][32]byte) {
	if p.o.Recompress <= 0 {
		return nil
	}
	rewritten := make(map[[32]byte]bool, len(but))
	for _, name := range but {
		rewritten[name] = true
	}
	for name, u := range p.survey.packs {
		if u.live > 0 && !u.bad && !rewritten[name] {
			names = append(names, name)
		}
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:min(len(names), maxMarkedPacks/2)]
}

// each calls fn for the packs that are worth it, several at a time, until the budget is
// spent. Damaged ones stay as they are, and so do those that the store keeps: what is asked of
// the store is bounded by the budget, too.
func (c *recompression) each(ctx context.Context, names [][32]byte, fn func(context.Context, [32]byte) error) error {
	g, work := errgroup.WithContext(ctx)
	g.SetLimit(min(recompressors, runtime.GOMAXPROCS(0)))
	for _, name := range names {
		if c.judged.known(name) {
			continue
		}
		if !c.spend(0) || work.Err() != nil {
			break
		}
		until, err := c.p.locks.until(work, packObject(name), c.p.now)
		if err != nil {
			return cmp.Or(g.Wait(), err)
		}
		if !until.IsZero() {
			continue
		}
		g.Go(func() error {
			err := objectErr(packObject(name), c.one(work, name, fn))
			if !passable(err) {
				return err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.bad = append(c.bad, err)
			return nil
		})
	}
	return cmp.Or(g.Wait(), context.Cause(ctx))
}

func (c *recompression) one(ctx context.Context, name [32]byte, fn func(context.Context, [32]byte) error) error {
	saves, err := c.judge(ctx, name)
	if err != nil {
		return err
	}
	size := c.p.survey.packs[name].info.Size
	if saves*worthShare < size {
		c.judged.add(name)
		return nil
	}
	if !c.spend(size) {
		return nil
	}
	if err := fn(ctx, name); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saved(saves)
	c.done = append(c.done, name)
	return nil
}

// spend takes bytes off the budget, unless it is spent.
func (c *recompression) spend(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left <= 0 {
		return false
	}
	c.left -= n
	return true
}

// judge compresses some segments of a pack and tells how many bytes of the whole that would
// save.
func (c *recompression) judge(ctx context.Context, name [32]byte) (saves int64, err error) {
	r, info := c.p.r, c.p.survey.packs[name].info
	l, err := readDirectory(ctx, r.store, r.ring, info)
	if err != nil || l.Kind != wire.DataPack {
		return 0, err // map nodes are names, which do not shrink
	}
	var before, after int64
	for n := range min(samples, len(l.Directory)) {
		seg := &l.Directory[n*len(l.Directory)/samples]
		plain, err := r.readSegment(ctx, r.store, index.Location{Pack: name, SegmentOffset: seg.Offset, SegmentLength: seg.Length})
		if err != nil {
			return 0, err
		}
		before += int64(seg.Length) - pack.SegmentOverhead
		after += int64(len(r.codec.PackAt(nil, plain, recompressLevel)))
	}
	c.spend(before)
	return int64(float64(info.Size) * float64(before-after) / float64(max(before, 1))), nil
}

// rewriteWhole puts what is needed of a pack, most of it, into the session's.
func (p *pruner) rewriteWhole(ctx context.Context, s *Session, name [32]byte) error {
	w, wrong, err := p.r.openWhole(ctx, p.survey.packs[name].info, nil)
	if err = first(err, wrong); err != nil {
		return err
	}
	out := s.data.take()
	defer s.data.give(out)
	for i := range w.list.Directory {
		seg := &w.list.Directory[i]
		needed, err := p.survey.needed(seg)
		if err != nil {
			return err
		}
		if needed == nil {
			continue
		}
		plain, err := w.segment(i)
		if err != nil {
			return err
		}
		if err := p.move(ctx, &s.data, out, seg, needed, plain); err != nil {
			return err
		}
	}
	return nil
}

// judged are the packs that were found not to be worth compressing anew, by the first eight
// bytes of their names, in a file of the cache. Whatever is wrong with that: a pack is tried
// once more, or stays as it is.
type judged struct {
	path string // empty: none

	mu    sync.Mutex
	names map[uint64]bool
	fresh bool // something is not in the file
}

func shortName(name [32]byte) uint64 { return binary.BigEndian.Uint64(name[:]) }

func loadJudged(cache string) *judged {
	j := &judged{names: map[uint64]bool{}}
	if cache == "" {
		return j
	}
	j.path = filepath.Join(cache, "judged")
	info, err := os.Stat(j.path)
	if err != nil || info.Size() > maxMemory {
		return j
	}
	b, err := os.ReadFile(j.path)
	if err != nil {
		return j
	}
	for ; len(b) >= 8; b = b[8:] {
		j.names[binary.BigEndian.Uint64(b)] = true
	}
	return j
}

func (j *judged) known(name [32]byte) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.names[shortName(name)]
}

func (j *judged) add(name [32]byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.names[shortName(name)], j.fresh = true, true
}

// save writes down what of that is still in the store. Where it cannot, as on a full disk,
// packs are tried once more.
func (j *judged) save(packs map[[32]byte]*packUse) {
	if j.path == "" || !j.fresh {
		return
	}
	var b []byte
	for name := range packs {
		if short := shortName(name); j.names[short] {
			b = binary.BigEndian.AppendUint64(b, short)
		}
	}
	_ = replaceFile(j.path, b)
}
