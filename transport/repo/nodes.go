package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// nodeSegments bounds the opened segments of map nodes that are kept, up to
// 1 MiB each.
const nodeSegments = 8

// readBehind is how many bytes are read at least, as far as there are so many up to a
// segment's end: a map is written from its leaves up and asked from its root down, and of a
// night with few changes all of it lies in one small pack. A larger segment is read alone.
const readBehind = maxGap

// nodes reads map nodes. Nodes that are used together lie together, so a segment
// that was opened for one serves the next ones. Safe for concurrent use.
type nodes struct {
	r     *Repository
	store blob.Store
	find  func(context.Context, block.Name) (index.Location, error)
	// damaged hears of each pack that cannot be read, before another is tried.
	damaged func(error) error
	// moved tells whether maintenance has moved a node meanwhile; nil: it cannot have.
	moved func(ctx context.Context, name block.Name, pack [32]byte, why error) (bool, error)

	mu    sync.Mutex
	cache []nodeSegment // most recently used last
	near  packRange     // that was read last
}

// packRange is what was read of a pack.
type packRange struct {
	pack [32]byte
	key  *keys.PackKey
	from int64
	b    []byte
}

func (p *packRange) has(loc index.Location) bool {
	return p.key != nil && p.pack == loc.Pack && p.from <= int64(loc.SegmentOffset) && end(&loc) <= p.from+int64(len(p.b))
}

type nodeSegment struct {
	pack   [32]byte
	offset uint32
	plain  []byte
}

func (r *Repository) nodes(store blob.Store) *nodes {
	return &nodes{r: r, store: store, find: r.find, moved: r.follows, damaged: func(err error) error { r.doubt(err); return nil }}
}

// load reads a node and checks it against its name. Where it is damaged, it is
// looked for in other packs that hold it.
func (n *nodes) load(ctx context.Context, name block.Name) ([]byte, error) {
	first, err := n.find(ctx, name)
	if err != nil {
		return nil, err
	}
	for loc := first; ; {
		node, err := n.read(ctx, name, loc)
		if err = objectErr(packObject(loc.Pack), err); !errors.Is(err, ErrCorrupt) {
			return node, err
		}
		if err := n.report(ctx, name, loc.Pack, err); err != nil {
			return nil, err
		}
		other, found := n.find(ctx, name)
		if found != nil || other.Pack == loc.Pack || other.Pack == first.Pack {
			return nil, errors.Join(err, found)
		}
		loc = other
	}
}

// report tells of a pack that cannot be read, unless maintenance has moved the node.
func (n *nodes) report(ctx context.Context, name block.Name, pack [32]byte, why error) error {
	if n.moved != nil {
		if moved, err := n.moved(ctx, name, pack, why); err != nil || moved {
			return err
		}
	}
	return n.damaged(why)
}

func (n *nodes) read(ctx context.Context, name block.Name, loc index.Location) ([]byte, error) {
	if int(loc.BlockLength) > tree.MaxNode {
		return nil, fmt.Errorf("%w: map node of %d bytes", wire.ErrDamaged, loc.BlockLength)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	plain, err := n.segment(ctx, loc)
	if err != nil {
		return nil, err
	}
	node, err := cutBlock(plain, loc)
	if err == nil && n.r.ring.Nodes.Name(node) != name {
		err = fmt.Errorf("%w: map node %s has other content", wire.ErrDamaged, name)
	}
	return node, err
}

// cutBlock takes a block out of its opened segment.
func cutBlock(plain []byte, loc index.Location) ([]byte, error) {
	if uint64(loc.BlockOffset)+uint64(loc.BlockLength) > uint64(len(plain)) {
		return nil, fmt.Errorf("%w: block at %d+%d of a segment of %d", wire.ErrDamaged, loc.BlockOffset, loc.BlockLength, len(plain))
	}
	return plain[loc.BlockOffset:][:loc.BlockLength], nil
}

// segment opens the segment of a location, under the lock: who waits wants the
// same segment as a rule.
func (n *nodes) segment(ctx context.Context, loc index.Location) ([]byte, error) {
	for i := len(n.cache) - 1; i >= 0; i-- {
		if s := n.cache[i]; s.pack == loc.Pack && s.offset == loc.SegmentOffset {
			n.cache = append(slices.Delete(n.cache, i, i+1), s)
			return s.plain, nil
		}
	}
	plain, err := n.open(ctx, loc)
	if err != nil {
		return nil, err
	}
	if len(n.cache) == nodeSegments {
		n.cache = slices.Delete(n.cache, 0, 1)
	}
	n.cache = append(n.cache, nodeSegment{pack: loc.Pack, offset: loc.SegmentOffset, plain: plain})
	return plain, nil
}

// open opens a segment that may have been read along with another.
func (n *nodes) open(ctx context.Context, loc index.Location) ([]byte, error) {
	if err := n.r.checkSegment(&loc); err != nil {
		return nil, err
	}
	if !n.near.has(loc) {
		from := min(int64(loc.SegmentOffset), max(end(&loc)-readBehind, 0))
		key, b, err := n.r.readPack(ctx, n.store, loc.Pack, from, end(&loc))
		if err != nil {
			return nil, err
		}
		n.near = packRange{loc.Pack, key, from, b}
	}
	sealed := n.near.b[int64(loc.SegmentOffset)-n.near.from:][:loc.SegmentLength]
	packed, err := n.near.key.Open(nil, loc.SegmentOffset, sealed)
	if err != nil {
		return nil, err
	}
	return n.r.codec.Unpack(nil, packed)
}

func (r *Repository) checkSegment(loc *index.Location) error {
	if loc.SegmentLength > pack.MaxSegment+pack.SegmentOverhead || int(loc.SegmentOffset) < r.ring.PackHeaderSize() {
		return fmt.Errorf("%w: segment at %d of %d bytes", wire.ErrDamaged, loc.SegmentOffset, loc.SegmentLength)
	}
	return nil
}

// readSegment reads and opens one segment.
func (r *Repository) readSegment(ctx context.Context, store blob.Store, loc index.Location) ([]byte, error) {
	if err := r.checkSegment(&loc); err != nil {
		return nil, err
	}
	key, sealed, err := r.readPack(ctx, store, loc.Pack, int64(loc.SegmentOffset), end(&loc))
	if err != nil {
		return nil, err
	}
	packed, err := key.Open(sealed[:0], loc.SegmentOffset, sealed)
	if err != nil {
		return nil, err
	}
	return r.codec.Unpack(nil, packed)
}
