package repo

import (
	"context"
	"errors"
	"sync"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// nodeSegmentSize is how many bytes of map nodes are sealed together.
const nodeSegmentSize = 1 << 20

var errPending = errors.New("a pack has places that nobody filled")

// lane is the way of one kind of block into the store: segments being gathered,
// one for each caller at work, and the pack that they are sealed into.
type lane struct {
	s       *Session
	kind    wire.Kind
	size    int
	segment int         // bytes of plain in one, at most
	buffers chan []byte // of packs; nil: not made yet
	pace    pace

	mu   sync.Mutex
	open []*segment   // begun, nobody's at the moment
	pack *pack.Writer // nil: none begun
}

// segment gathers blocks until there is no room for the next one.
type segment struct {
	plain  []byte
	blocks []pack.Block
}

// sealing is the memory that sealing a segment takes.
type sealing struct {
	packed []byte
	verify pack.Scratch
}

// finishedPack is a pack and what it lists.
type finishedPack = pack.Pack

func (l *lane) init(s *Session, kind wire.Kind, size, buffers int) {
	l.s, l.kind, l.size = s, kind, size
	// Map nodes are names, which do not shrink, and are read one by one.
	l.segment, l.pace.ladder = nodeSegmentSize, []pack.Level{pack.Normal}
	if kind == wire.DataPack {
		l.segment, l.pace.ladder = s.r.limits.segment, s.r.compression.ladder(s.r.ring.Format())
	}
	l.buffers = make(chan []byte, buffers)
	for range buffers {
		l.buffers <- nil
	}
}

// take hands out a segment to add to; the caller gives it back.
func (l *lane) take() *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.open); n > 0 {
		seg := l.open[n-1]
		l.open = l.open[:n-1]
		return seg
	}
	return &segment{plain: make([]byte, 0, l.segment)}
}

func (l *lane) give(seg *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, seg)
}

// add puts a new block into the segment, and seals the segment first when it has
// no room.
func (l *lane) add(ctx context.Context, seg *segment, name block.Name, data []byte) error {
	if len(seg.plain)+len(data) > l.segment {
		if err := l.seal(ctx, seg); err != nil {
			return err
		}
	}
	seg.plain = append(seg.plain, data...)
	seg.blocks = append(seg.blocks, pack.Block{Name: name, Length: uint32(len(data))})
	return nil
}

// seal compresses the segment and seals it into the pack, and empties it.
func (l *lane) seal(ctx context.Context, seg *segment) error {
	work := l.s.r.scratch.Get().(*sealing)
	defer l.s.r.scratch.Put(work)
	began := l.s.r.now()
	work.packed = l.s.r.codec.PackAt(work.packed[:0], seg.plain, l.pace.level(l.s.count.dedup.Load(), l.s.count.fresh.Load()))
	packed := l.s.r.now()
	w, place, err := l.reserve(ctx, len(work.packed), seg.blocks)
	if err != nil {
		return err
	}
	l.pace.note(packed.Sub(began), l.s.r.now().Sub(packed))
	ready, err := w.Fill(place, work.packed, seg.plain, &work.verify)
	if err != nil {
		return err
	}
	seg.plain, seg.blocks = seg.plain[:0], make([]pack.Block, 0, cap(seg.blocks))
	if ready {
		return l.finish(ctx, w)
	}
	return nil
}

// reserve takes a place in the current pack. A full one is closed first; the last
// to fill a place in it finishes it.
func (l *lane) reserve(ctx context.Context, packed int, blocks []pack.Block) (*pack.Writer, pack.Place, error) {
	for {
		w, full, err := l.current(ctx, packed, blocks)
		if err != nil {
			return nil, pack.Place{}, err
		}
		if full == nil {
			return w.w, w.place, nil
		}
		if full.Close() {
			if err := l.finish(ctx, full); err != nil {
				return nil, pack.Place{}, err
			}
		}
	}
}

// reserved is a place and its pack.
type reserved struct {
	w     *pack.Writer
	place pack.Place
}

// current reserves in the pack at hand, begun when there is none, or takes it
// away as full.
func (l *lane) current(ctx context.Context, packed int, blocks []pack.Block) (reserved, *pack.Writer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pack == nil {
		buf, err := l.buffer(ctx)
		if err != nil {
			return reserved{}, nil, err
		}
		if l.pack, err = l.s.r.newPack(l.kind, buf); err != nil {
			return reserved{}, nil, err
		}
	}
	if place, ok := l.pack.Reserve(packed, blocks); ok {
		return reserved{l.pack, place}, nil, nil
	}
	full := l.pack
	l.pack = nil
	return reserved{}, full, nil
}

// newPack begins a pack in the memory of buf, padded where the repository's packs are.
func (r *Repository) newPack(kind wire.Kind, buf []byte) (*pack.Writer, error) {
	w, err := pack.NewWriter(r.ring, r.codec, kind, buf)
	if err == nil && r.padding {
		w.Pad()
	}
	return w, err
}

// buffer waits for the memory of a pack: this is what slows workers down to the
// speed of the store.
func (l *lane) buffer(ctx context.Context) ([]byte, error) {
	select {
	case buf := <-l.buffers:
		if buf == nil {
			buf = make([]byte, 0, l.size)
		}
		return buf, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.s.failed:
		return nil, l.s.failure()
	}
}

// finish completes a pack and hands it to an uploader.
func (l *lane) finish(ctx context.Context, w *pack.Writer) error {
	p, err := w.Finish(l.s.r.ring)
	if err != nil {
		return err
	}
	select {
	case l.s.jobs <- job{lane: l, pack: p}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.s.failed:
		return l.s.failure()
	}
}

// flush seals what is gathered and sends the pack on its way. Nobody else uses
// the lane.
func (l *lane) flush(ctx context.Context) error {
	for _, seg := range l.open {
		if len(seg.plain) > 0 {
			if err := l.seal(ctx, seg); err != nil {
				return err
			}
		}
	}
	l.open = nil
	w := l.pack
	l.pack = nil
	if w == nil {
		return nil
	}
	if !w.Close() {
		return errPending // not reached: who reserves a place fills it
	}
	return l.finish(ctx, w)
}
