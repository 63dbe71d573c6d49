package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const (
	// maxRead bounds one range read in bytes.
	maxRead = 8 << 20
	// maxGap is what is read and thrown away between two segments rather than
	// asking once more.
	maxGap = 256 << 10
)

// fetcher reads batches. It belongs to one worker and keeps the worker's memory.
type fetcher struct {
	r     *Repository
	store blob.Store
	holes *holes // takes what is lost; nil: that ends the reading
	buf   []byte // of the batch
	plain []byte // of a segment

	damage error // that was met last
}

// run reads a batch: each pack in order of offsets, each segment once.
func (f *fetcher) run(ctx context.Context, b *batch, write Write) error {
	if cap(f.buf) < b.size {
		f.buf = make([]byte, b.size, max(b.size, min(2*b.size, batchSize)))
	}
	f.buf = f.buf[:b.size]
	if b.gaps {
		clear(f.buf)
	}
	lost, err := f.read(ctx, b.wants, together)
	if err != nil {
		return err
	}
	if lost, err = f.readAgain(ctx, lost); err != nil {
		return err
	}
	for _, r := range without(b.runs, lost) {
		if err := write(ctx, r.off, f.buf[r.at:r.at+r.size]); err != nil {
			return err
		}
	}
	return nil
}

// read fills in the wants, as many at a time as one range read is to serve. It
// returns those that were asked from a damaged pack, and why.
func (f *fetcher) read(ctx context.Context, wants []want, serve func([]want) int) (lost []want, err error) {
	inPacks(wants)
	for len(wants) > 0 {
		n := serve(wants)
		err := objectErr(packObject(wants[0].loc.Pack), f.readRange(ctx, wants[:n]))
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
		if err != nil {
			moved, cannot := f.r.follows(ctx, wants[0].name, wants[0].loc.Pack, err)
			if cannot != nil {
				return nil, cannot
			}
			if !moved {
				f.r.doubt(err)
			}
			f.damage = err
			lost = append(lost, wants[:n]...)
		}
		wants = wants[n:]
	}
	return lost, nil
}

// maxPlaces bounds in how many places a block is looked for, beside the first. Each that is
// no good costs a read, and is known to nobody here any more: so whoever lists other content
// under names of others' blocks makes a restore slow by as many packs as he has stored.
const maxPlaces = 1 << 16

// readAgain reads segment by segment what was lost, and then from other packs that hold it,
// one after the other: some of them may be no better. It returns what is lost for good, as
// far as holes may be left.
func (f *fetcher) readAgain(ctx context.Context, lost []want) (gone []want, err error) {
	for place := 0; len(lost) > 0; place++ {
		again := make([]want, 0, len(lost))
		for _, w := range lost {
			if place > 0 {
				loc, err := f.r.find(ctx, w.name)
				if err == nil && (loc.Pack == w.loc.Pack || place == maxPlaces) {
					err = f.damage
				}
				if err != nil {
					if err := f.holes.add(w.off, int64(w.length), err); err != nil {
						return nil, err
					}
					gone = append(gone, w)
					continue
				}
				w.loc = loc
			}
			again = append(again, w)
		}
		if lost, err = f.read(ctx, again, inSegment); err != nil {
			return nil, err
		}
	}
	return gone, nil
}

// without cuts what is lost out of the runs of a batch.
func without(runs []run, lost []want) []run {
	if len(lost) == 0 {
		return runs
	}
	slices.SortFunc(lost, func(a, b want) int { return cmp.Compare(a.off, b.off) })
	var left []run
	for _, r := range runs {
		for len(lost) > 0 && lost[0].off < r.off+int64(r.size) {
			before := int(lost[0].off - r.off)
			if before > 0 {
				left = append(left, run{off: r.off, at: r.at, size: before})
			}
			skip := before + lost[0].length
			r = run{off: r.off + int64(skip), at: r.at + skip, size: r.size - skip}
			lost = lost[1:]
		}
		if r.size > 0 {
			left = append(left, r)
		}
	}
	return left
}

// inSegment is how many of the wants, in order, lie in the first one's segment.
func inSegment(wants []want) int {
	n := 1
	for n < len(wants) && wants[n].sameSegment(&wants[0]) {
		n++
	}
	return n
}

// end is where the segment of a location ends in the pack.
func end(l *index.Location) int64 { return int64(l.SegmentOffset) + int64(l.SegmentLength) }

// together is how many of the wants, in order of packs and offsets, one range read
// serves.
func together(wants []want) int {
	first := &wants[0].loc
	last := end(first)
	for i := range wants {
		l := &wants[i].loc
		if l.Pack != first.Pack || int64(l.SegmentOffset) > last+maxGap || end(l)-int64(first.SegmentOffset) > maxRead {
			return max(i, 1)
		}
		last = max(last, end(l))
	}
	return len(wants)
}

// readRange reads the segments of wants, which lie in one range of one pack.
func (f *fetcher) readRange(ctx context.Context, wants []want) error {
	first, last := &wants[0].loc, &wants[len(wants)-1].loc
	from, to := int64(first.SegmentOffset), end(last)
	if to-from > maxRead || from < int64(f.r.ring.PackHeaderSize()) {
		return fmt.Errorf("%w: segment at %d of %d bytes", wire.ErrDamaged, from, to-from)
	}
	key, read, err := f.r.readPack(ctx, f.store, first.Pack, from, to)
	if err != nil {
		return err
	}
	for len(wants) > 0 {
		l := &wants[0].loc
		n := inSegment(wants)
		at := int64(l.SegmentOffset) - from
		if at+int64(l.SegmentLength) > int64(len(read)) {
			return fmt.Errorf("%w: segments overlap at %d", wire.ErrDamaged, l.SegmentOffset)
		}
		if err := f.segment(key, read[at:at+int64(l.SegmentLength)], wants[:n]); err != nil {
			return err
		}
		wants = wants[n:]
	}
	return nil
}

// segment opens one segment and copies the blocks that are wanted from it.
func (f *fetcher) segment(key *keys.PackKey, sealed []byte, wants []want) error {
	packed, err := key.Open(sealed[:0], wants[0].loc.SegmentOffset, sealed)
	if err != nil {
		return err
	}
	if f.plain == nil {
		f.plain = make([]byte, 0, pack.MaxSegment)
	}
	plain, err := f.r.codec.Unpack(f.plain, packed)
	if err != nil {
		return err
	}
	for i := range wants {
		if err := f.block(plain, &wants[i]); err != nil {
			return err
		}
	}
	return nil
}

func (f *fetcher) block(plain []byte, w *want) error {
	data, err := cutBlock(plain, w.loc)
	if err != nil {
		return err
	}
	if len(data) != w.length || f.r.ring.Data.Name(data) != w.name {
		return fmt.Errorf("%w: block %s has other content", wire.ErrDamaged, w.name)
	}
	copy(f.buf[w.at:], data)
	return nil
}
