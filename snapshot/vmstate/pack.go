package vmstate

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/lull-backup/lull/snapshot"
)

// ErrTooLarge is a stream of more bytes than its limit.
var ErrTooLarge = fmt.Errorf("the state is larger than it may be: %w", snapshot.ErrUnsupported)

// Pack reads a stream of at most limit bytes to its end and lays it out in f, which
// is empty and reads as zeros where nothing is written. It writes no more bytes than
// it reads, but for one in 512 and a few. What it wrote is no layout until it has returned nil.
func Pack(f io.WriterAt, stream io.Reader, limit int64) error {
	counted := &counter{r: stream, left: limit, hash: sha256.New()}
	p := &packer{counted: counted, in: bufio.NewReaderSize(counted, bufferSize), f: f}
	err := p.pack(limit)
	if err == nil {
		err = p.finish()
	}
	if err != nil {
		return err
	}
	h := header{rest: p.rest.at, restLength: p.rest.n, length: counted.n}
	counted.hash.Sum(h.sum[:0])
	if _, err = f.WriteAt(h.encode(), 0); err == nil {
		_, err = f.WriteAt([]byte{0}, alignUp(h.rest+h.restLength+1)-1)
	}
	return err
}

// bufferSize is how much is read and written at a time.
const bufferSize = 1 << 20

// packer is a stream that is being laid out.
type packer struct {
	counted *counter
	in      *bufio.Reader
	f       io.WriterAt
	prelude prelude
	block   *block // that of the page before
	seen    []uint64
	run     run    // that is not recorded yet
	pages   gather // that are not written yet
	rest    gather
	grown   int64 // by how much more was written than read
}

// maxGrown is how much longer than the stream a layout may be, beside one byte in 512, which
// records of pages in no order at all need. No QEMU comes near it: a stream whose heads take
// more room than that was made for it.
const maxGrown = 64 << 10

func (p *packer) overgrown() bool { return p.grown > maxGrown+p.counted.n/512 }

// run is pages that lie one after the other in the stream, in the guest, and here.
type run struct {
	kind        byte  // 0: none
	guest, here int64 // of the first, in bytes
	count       int64
}

// pack does the whole stream.
func (p *packer) pack(limit int64) error {
	head, err := p.in.Peek(maxPrelude)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	p.pages, p.rest = gather{f: p.f}, gather{f: p.f, at: headerSize}
	var known bool
	if p.prelude, known = parsePrelude(head, limit); known {
		p.rest.at = p.prelude.end
		p.seen = make([]uint64, p.prelude.end/pageSize/64)
		if err := p.bytes(p.prelude.length); err != nil {
			return err
		}
	}
	for known {
		if known, err = p.part(); err != nil {
			return err
		}
	}
	return p.remainder()
}

// part lays out one part of the section. known: another one follows.
func (p *packer) part() (known bool, err error) {
	for more := true; more; {
		if known, more, err = p.item(); err != nil || !known || p.overgrown() {
			return false, err
		}
	}
	b, err := p.peek(maxBetween)
	n, ok := p.prelude.between(b)
	if err != nil || !ok {
		return false, err // the RAM is over
	}
	return true, p.bytes(n)
}

// item is a page, or the end of a part of the section. known: it was one.
func (p *packer) item() (known, more bool, err error) {
	b, err := p.peek(maxHead)
	if err != nil || len(b) < wordSize {
		return false, false, err
	}
	c := cursor{b: b}
	word := c.u64()
	flags, guest := word&flagsMask, int64(word&^flagsMask)
	if word == flagEnd {
		return true, false, p.bytes(wordSize)
	}
	if flags&flagSame == 0 {
		p.block = p.prelude.find(c.name())
	}
	if p.block == nil || guest < 0 || guest > p.block.length-pageSize || c.failed {
		return false, false, nil
	}
	head := len(b) - len(c.b)
	switch flags &^ flagSame {
	case flagPage:
		if b, err := p.peek(head + pageSize); len(b) < head+pageSize {
			return false, false, err
		}
		return true, true, p.page(guest, head, flags&flagSame != 0)
	case flagZero:
		if c.byte() != 0 || c.failed {
			return false, false, nil
		}
		return true, true, p.zero(guest, head+1, flags&flagSame != 0)
	}
	return false, false, nil
}

// peek looks ahead. Less than n bytes are there only at the end.
func (p *packer) peek(n int) ([]byte, error) {
	b, err := p.in.Peek(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

// page puts a page where it belongs; same: its head needs no record. One that comes
// again, as it would from a guest that runs, is kept with the rest.
func (p *packer) page(guest int64, head int, same bool) error {
	here := p.block.at + guest
	word, bit := here/pageSize/64, uint64(1)<<(here/pageSize%64)
	if p.seen[word]&bit != 0 {
		return p.bytes(head + pageSize)
	}
	p.seen[word] |= bit
	if !same {
		if err := p.bytes(head); err != nil {
			return err
		}
		if err := p.record(recordPage, here/pageSize); err != nil {
			return err
		}
		return p.data(here)
	}
	if err := p.extend(run{kind: recordPages, guest: guest, here: here}); err != nil {
		return err
	}
	if err := p.skip(head); err != nil {
		return err
	}
	return p.data(here)
}

// data moves the bytes of a page.
func (p *packer) data(here int64) error {
	if err := p.pages.moveTo(here); err != nil {
		return err
	}
	return p.pages.readFrom(p.in, pageSize)
}

// zero notes a page of zeros: it is a hole here.
func (p *packer) zero(guest int64, head int, same bool) error {
	if !same {
		return p.bytes(head)
	}
	if err := p.extend(run{kind: recordZeros, guest: guest}); err != nil {
		return err
	}
	return p.skip(head)
}

// skip leaves out a head that follows from a record.
func (p *packer) skip(head int) error {
	p.grown -= int64(head)
	_, err := p.in.Discard(head)
	return err
}

// extend makes the run one page longer, or begins another.
func (p *packer) extend(next run) error {
	r := &p.run
	after := r.count * pageSize
	if r.kind == next.kind && r.guest+after == next.guest && (r.kind == recordZeros || r.here+after == next.here) {
		r.count++
		return nil
	}
	if err := p.endRun(); err != nil {
		return err
	}
	next.count = 1
	p.run = next
	return nil
}

// endRun records the run.
func (p *packer) endRun() error {
	r := p.run
	p.run = run{}
	switch r.kind {
	case recordPages:
		return p.record(r.kind, r.guest/pageSize, r.here/pageSize, r.count)
	case recordZeros:
		return p.record(r.kind, r.guest/pageSize, r.count)
	}
	return nil
}

// record writes a record without bytes, after the run before it.
func (p *packer) record(kind byte, numbers ...int64) error {
	if p.run.kind != 0 {
		if err := p.endRun(); err != nil {
			return err
		}
	}
	b := make([]byte, 0, 1+len(numbers)*binary.MaxVarintLen64)
	b = append(b, kind)
	for _, n := range numbers {
		b = binary.AppendUvarint(b, uint64(n))
	}
	p.grown += int64(len(b))
	return p.rest.write(b)
}

// bytes keeps n bytes of the stream as they are.
func (p *packer) bytes(n int) error {
	if err := p.record(recordBytes, int64(n)); err != nil {
		return err
	}
	return p.rest.readFrom(p.in, n)
}

// remainder keeps all that comes.
func (p *packer) remainder() error {
	for {
		if _, err := p.in.Peek(1); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := p.bytes(p.in.Buffered()); err != nil {
			return err
		}
	}
}

func (p *packer) finish() error {
	return errors.Join(p.endRun(), p.pages.flush(), p.rest.flush())
}

// counter reads at most left bytes, and sums them up.
type counter struct {
	r       io.Reader
	n, left int64
	hash    hash.Hash
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if c.left -= int64(n); c.left < 0 {
		return 0, ErrTooLarge
	}
	c.n += int64(n)
	c.hash.Write(b[:n])
	return n, err
}
