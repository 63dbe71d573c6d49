package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lull-backup/lull/transport/blob/count"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

var (
	errNoVM   = errors.New("the VM has no name")
	errClosed = errors.New("the session is over")
	errDoubts = fmt.Errorf("%w: met during the run, begin again to store anew what it holds", ErrCorrupt)
)

// limits are the sizes of what a session makes and holds. The format leaves them
// free, within pack.MaxPack and pack.MaxIndex.
type limits struct {
	dataPack int // bytes, for eleven segments that do not shrink; uploaders + 1 such buffers are in use at most
	nodePack int // bytes; two at most
	// segment is how much data is compressed together, in bytes; it must fit into a
	// data pack with room to spare. More takes less in the store, and memory for each
	// worker and reader.
	segment   int
	uploaders int
	// index is how many new blocks are put into the store without an index
	// object: what a crash in a long session makes the next one store again.
	index int
}

func defaultLimits() limits {
	return limits{dataPack: 23 << 20, nodePack: 4 << 20, segment: pack.MaxSegment, uploaders: 2, index: 1 << 16}
}

// Session takes the streams of one restore point. New blocks go into the store
// as they come; Commit is what makes a point of them.
//
// Stream, Put, Zero, Keep, Finish and Stats may be called at the same time.
// Commit and Close may not be called while any of the others runs; Close must be
// called in the end, after Commit too. After the first error that concerns the
// store or the session, everything fails with it. Damage that comes to light in the
// repository is such an error (ErrCorrupt), because what was taken for known may be
// hit; the next session, in the same process too, steers clear of it.
type Session struct {
	r     *Repository
	vm    string
	id    string // of the point to be
	sid   sid
	store *count.Store
	data  lane
	nodes lane
	count counters

	parent  Point  // found when it began; the zero Point: none
	damaged error  // of points that are newer
	follows string // id of the parent, though it cannot be read
	trusted bool   // the parent's blocks stay where they are
	removed Hash   // see Point.Removed
	mark    uint64

	began    time.Time // by the host's clock
	renewals atomic.Int64
	unsure   atomic.Bool // what became of an object of its own
	retired  bool

	keep    *keeper // nil: maps can be read from the store
	doubts  int     // known when it began
	parents *nodes  // reads parents' maps, for all streams

	claims  claims
	index   *index.Session
	indexes int // objects written
	listing listing

	jobs   chan job
	stop   chan struct{} // closed: no more jobs come
	failed chan struct{} // closed: err is set
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	err  error
	over bool
}

// counters are Stats but for what the store counts.
type counters struct {
	read, zero, dedup, fresh, blocks, newBlocks atomic.Int64
}

// job is a finished pack on its way to the store.
type job struct {
	lane *lane
	pack finishedPack
}

// Begin starts the session of one restore point of a VM. The point's id, by which
// points of a VM are in order, comes from at: the host's clock, early in the run.
// The session is announced in the store, and finds the parent. Uploads run until
// Commit or Close, and end with ctx.
func (r *Repository) Begin(ctx context.Context, vm string, at time.Time) (*Session, error) {
	if vm == "" {
		return nil, errNoVM
	}
	if err := r.Allow(RoleBackup, "back up"); err != nil {
		return nil, err
	}
	return r.beginPoint(ctx, vm, newPointID(at))
}

// beginPoint starts the session of the point of an id, which builds on the newest of its
// VM.
func (r *Repository) beginPoint(ctx context.Context, vm, id string) (*Session, error) {
	s, err := r.begin(ctx, vm, id)
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	if err := s.choose(ctx); err != nil {
		return nil, fmt.Errorf("begin session: %w", errors.Join(err, s.Close()))
	}
	s.doubts = r.doubts.count()
	return s, nil
}

// begin starts a session that may make the point of an id.
func (r *Repository) begin(ctx context.Context, vm, id string) (*Session, error) {
	if r.trust.stale != nil {
		return nil, r.trust.stale
	}
	keep, err := r.keep(r.ring.VM(vm))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{
		r:      r,
		vm:     vm,
		id:     id,
		sid:    sessionID(r.ring.VM(vm), id),
		store:  count.New(r.store),
		index:  r.index.Session(),
		jobs:   make(chan job),
		stop:   make(chan struct{}),
		failed: make(chan struct{}),
		cancel: cancel,
		keep:   keep,
	}
	s.index.Only(r.usable)
	s.removed = r.removedFrom(r.domain.String())
	s.doubts = r.doubts.count()
	s.parents = r.nodes(s.store)
	s.data.init(s, wire.DataPack, r.limits.dataPack, r.limits.uploaders+1)
	s.nodes.init(s, wire.NodePack, r.limits.nodePack, 2)
	if err := s.announce(ctx); err != nil {
		cancel()
		return nil, errors.Join(err, keep.close(), s.index.Close())
	}
	s.wg.Go(func() { s.renew(ctx) })
	for range r.limits.uploaders {
		s.wg.Go(func() { s.upload(ctx) })
	}
	return s, nil
}

// Stats tells what the session did until now.
func (s *Session) Stats() Stats {
	c, asked := &s.count, s.store.Totals()
	return Stats{
		Read: c.read.Load(), Zero: c.zero.Load(), Dedup: c.dedup.Load(), New: c.fresh.Load(),
		Blocks: c.blocks.Load(), NewBlocks: c.newBlocks.Load(),
		Stored: asked.Written, Requests: asked.Requests, Objects: asked.Created,
	}
}

// Close gives the session up, unless it was committed. What it has put into the
// store stays there, unused, until a later session meets it or a prune does.
func (s *Session) Close() error {
	s.fail(errClosed)
	s.cancel()
	s.end()
	s.retire(context.Background())
	return errors.Join(s.keep.close(), s.index.Close())
}

// end waits for the uploads that are under way and lets no more begin.
func (s *Session) end() {
	s.mu.Lock()
	if !s.over {
		s.over = true
		close(s.stop)
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// fail makes err the session's end, unless it had one.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		close(s.failed)
	}
}

func (s *Session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// known tells whether the repository or this session has a block already. If not,
// the caller has claimed it and must add it to a lane: two workers that meet the
// same new block store it once.
func (s *Session) known(ctx context.Context, name block.Name) (bool, error) {
	var known [1]bool
	err := s.lookUp(ctx, []block.Name{name}, known[:])
	if known[0] || err != nil {
		return known[0], err
	}
	return !s.claims.claim(name), nil
}

// lookUp tells which of some blocks are in the repository or in this session's
// packs in the store. It claims nothing.
func (s *Session) lookUp(ctx context.Context, names []block.Name, known []bool) error {
	return s.r.mending(ctx, func() error { return s.index.Known(names, known) })
}

// claims are the new blocks whose packs are not in the store yet.
type claims struct {
	mu    sync.Mutex
	names map[block.Name]struct{}
}

// claim reports whether the caller is the first to claim the name.
func (c *claims) claim(name block.Name) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.names[name]; taken {
		return false
	}
	if c.names == nil {
		c.names = map[block.Name]struct{}{}
	}
	c.names[name] = struct{}{}
	return true
}

// drop forgets a claim: the block is in the index now.
func (c *claims) drop(names []block.Name) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range names {
		delete(c.names, n)
	}
}
