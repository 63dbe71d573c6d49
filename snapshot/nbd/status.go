package nbd

import (
	"context"
	"fmt"
	"io"

	"github.com/lull-backup/lull/snapshot"
)

// Range is a part of an export with its flags in one meta context.
type Range struct {
	Offset, Length int64
	Flags          uint32
}

// sectorSize is what sizes are rounded up to, as QEMU does.
const sectorSize = 512

// shortestZero is the length in bytes below which a run of zeros is reported
// as data: it is cheaper to read, and it bounds how many extents a server can
// make us hold.
const shortestZero = 4096

// Extents tells what [off, off+length) holds. Without ContextAllocation from
// the server all of it is data.
func (c *Client) Extents(ctx context.Context, off, length int64) ([]snapshot.Extent, error) {
	if err := c.check(off, length); err != nil {
		return nil, fmt.Errorf("map NBD export %q: %w", c.export, err)
	}
	var out []snapshot.Extent
	add := func(off, n int64, zero bool) {
		if n <= 0 {
			return
		}
		zero = zero && n >= shortestZero
		if last := len(out) - 1; last >= 0 && out[last].Zero == zero {
			out[last].Length += n
			return
		}
		out = append(out, snapshot.Extent{Offset: off, Length: n, Zero: zero})
	}
	end := off + length
	real := max(off, min(end, c.size))
	if !c.HasContext(ContextAllocation) {
		add(off, real-off, false)
	} else if err := c.walk(ctx, ContextAllocation, off, real, func(r Range) {
		add(r.Offset, r.Length, r.Flags&StateZero != 0)
	}); err != nil {
		return nil, fmt.Errorf("map NBD export %q: %w", c.export, err)
	}
	add(real, end-real, false) // the padding after a size that is no multiple of 512
	return out, nil
}

// Status reads a meta context over [off, off+length), clipped to the export's
// own size, in order and without gaps. Neighbours with equal flags are one range.
func (c *Client) Status(ctx context.Context, name string, off, length int64) ([]Range, error) {
	if err := c.check(off, length); err != nil {
		return nil, fmt.Errorf("read NBD context %q of %q: %w", name, c.export, err)
	}
	if !c.HasContext(name) {
		return nil, fmt.Errorf("read NBD context %q of %q: %w", name, c.export, ErrNoContext)
	}
	var out []Range
	err := c.walk(ctx, name, off, min(off+length, c.size), func(r Range) {
		if last := len(out) - 1; last >= 0 && out[last].Flags == r.Flags {
			out[last].Length += r.Length
			return
		}
		out = append(out, r)
	})
	if err != nil {
		return nil, fmt.Errorf("read NBD context %q of %q: %w", name, c.export, err)
	}
	return out, nil
}

// walk calls visit for the ranges of [off, end) in order, in as many requests
// as the server's short answers need.
func (c *Client) walk(ctx context.Context, name string, off, end int64, visit func(Range)) error {
	for off < end {
		cn := c.pick()
		start := off / cn.minBlock * cn.minBlock
		stop := min(roundUp(end, cn.minBlock), start+maxStatusLength, c.size)
		cl := &call{cmd: cmdBlockStatus, off: start, length: stop - start, context: cn.contexts[name]}
		if err := cn.do(ctx, cl); err != nil {
			return err
		}
		before := off
		for _, r := range cl.ranges {
			last := min(r.Offset+r.Length, end)
			if last > off {
				visit(Range{Offset: off, Length: last - off, Flags: r.Flags})
				off = last
			}
		}
		if off == before {
			return violation("block status stays before the range that was asked for")
		}
	}
	return nil
}

// blockStatus reads the descriptors of one meta context.
func (c *conn) blockStatus(cl *call, length int64) error {
	count := (length - 4) / 8
	if length < 12 || (length-4)%8 != 0 || count > maxDescriptors || count > cl.length {
		return violation("block status of %d bytes for %d bytes of disk", length, cl.length)
	}
	var b [8]byte
	if _, err := io.ReadFull(c.r, b[:4]); err != nil {
		return fmt.Errorf("read chunk: %w", noEOF(err))
	}
	id := be.Uint32(b[:])
	if cl.seen[id] || !c.grants(id) {
		return violation("meta context %d was not asked for, or answered twice", id)
	}
	if cl.seen == nil {
		cl.seen = map[uint32]bool{}
	}
	cl.seen[id] = true
	at := cl.off
	for range count {
		if _, err := io.ReadFull(c.r, b[:]); err != nil {
			return fmt.Errorf("read chunk: %w", noEOF(err))
		}
		n := int64(be.Uint32(b[:]))
		if n == 0 || at >= cl.off+cl.length {
			return violation("block status with an empty extent, or one past the range")
		}
		if id == cl.context {
			cl.ranges = append(cl.ranges, Range{Offset: at, Length: n, Flags: be.Uint32(b[4:])})
		}
		at += n
	}
	return nil
}

func (c *conn) grants(id uint32) bool {
	for _, granted := range c.contexts {
		if granted == id {
			return true
		}
	}
	return false
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
