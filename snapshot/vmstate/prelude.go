package vmstate

import "encoding/binary"

// block is a RAM block of the guest: its main memory, or that of a device.
type block struct {
	name   string
	length int64
	at     int64 // of its first page in the layout
}

// prelude is the stream up to the guest's first page.
type prelude struct {
	length  int // bytes of the stream
	section uint32
	blocks  []block
	end     int64 // of the last block in the layout
}

// What a prelude is bounded by. QEMU names some ten blocks in some 500 bytes.
const (
	maxPrelude = 64 << 10
	maxBlocks  = 512
)

// Sections of a stream; migration/savevm.h of QEMU.
const (
	sectionStart  = 1
	sectionPart   = 2
	sectionEnd    = 3
	sectionConfig = 7
	command       = 8 // then its number and a length of 16 bits each, and so many bytes
	sectionFooter = 0x7e
	ramVersion    = 4
)

// maxBetween is the most that lies between two parts of the RAM.
const maxBetween = 5 + 5 + 1<<16 + 5

// parsePrelude understands the beginning of a stream. ok: it is one that Pack knows
// how to lay out, and its RAM is no more than limit bytes.
func parsePrelude(b []byte, limit int64) (p prelude, ok bool) {
	c := cursor{b: b}
	if string(c.take(len(streamMagic))) != streamMagic {
		return p, false
	}
	kind := c.byte()
	if kind == sectionConfig {
		c.take(int(min(c.u32(), maxPrelude))) // the machine's name
		kind = c.byte()
	}
	p.section = c.u32()
	name := c.name()
	c.u32() // of several that have the same name
	version := c.u32()
	sizes := c.u64()
	if c.failed || kind != sectionStart || name != "ram" || version != ramVersion || sizes&flagsMask != flagSizes {
		return p, false
	}
	ok = p.parseBlocks(&c, sizes&^flagsMask, limit)
	p.length = len(b) - len(c.b)
	return p, ok && c.u64() == flagEnd && !c.failed
}

// between is the length of what lies between a part of the RAM, whose end has been read, and
// the next: a footer, a head, and perhaps a command. QEMU 10 tells there that the guest
// stands still from then on (MIG_CMD_SWITCHOVER_START). ok: such a part follows.
func (p *prelude) between(b []byte) (length int, ok bool) {
	c := cursor{b: b}
	if c.byte() != sectionFooter || c.u32() != p.section {
		return 0, false
	}
	kind := c.byte()
	if kind == command {
		c.u16() // which
		c.take(int(c.u16()))
		kind = c.byte()
	}
	ok = (kind == sectionPart || kind == sectionEnd) && c.u32() == p.section && !c.failed
	return len(b) - len(c.b), ok
}

// parseBlocks reads the list of blocks, whose lengths add up to total, and gives
// each its place.
func (p *prelude) parseBlocks(c *cursor, total uint64, limit int64) bool {
	if total > uint64(limit) {
		return false
	}
	p.end = align
	for total > 0 {
		name, length := c.name(), c.u64()
		known := p.find(name) != nil
		if c.failed || known || len(p.blocks) == maxBlocks || length == 0 || length > total || length%pageSize != 0 {
			return false
		}
		total -= length
		p.blocks = append(p.blocks, block{name: name, length: int64(length), at: p.end})
		p.end += alignUp(int64(length))
	}
	return true
}

func (p *prelude) find(name string) *block {
	for i := range p.blocks {
		if p.blocks[i].name == name {
			return &p.blocks[i]
		}
	}
	return nil
}

// cursor reads big-endian numbers off a slice. Past its end everything is zero.
type cursor struct {
	b      []byte
	failed bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.failed, c.b = true, nil
		return nil
	}
	head := c.b[:n]
	c.b = c.b[n:]
	return head
}

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(wordSize); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) name() string { return string(c.take(int(c.byte()))) }
