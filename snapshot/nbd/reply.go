package nbd

import (
	"fmt"
	"io"
)

// replies reads answers until the stream ends or breaks the protocol.
func (c *conn) replies() error {
	for {
		if err := c.nextReply(); err != nil {
			return err
		}
	}
}

func (c *conn) nextReply() error {
	var b [20]byte
	if _, err := io.ReadFull(c.r, b[:4]); err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	switch be.Uint32(b[:]) {
	case magicSimple:
		if _, err := io.ReadFull(c.r, b[4:16]); err != nil {
			return fmt.Errorf("read reply: %w", noEOF(err))
		}
		return c.simple(be.Uint32(b[4:]), be.Uint64(b[8:]))
	case magicStructured:
		if _, err := io.ReadFull(c.r, b[4:20]); err != nil {
			return fmt.Errorf("read reply: %w", noEOF(err))
		}
		return c.structuredChunk(chunk{
			flags: be.Uint16(b[4:]), kind: be.Uint16(b[6:]), length: int64(be.Uint32(b[16:])),
		}, be.Uint64(b[8:]))
	}
	return violation("reply with magic %#x", be.Uint32(b[:]))
}

func (c *conn) lookup(cookie uint64) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl := c.pending[cookie]; cl != nil {
		return cl, nil
	}
	return nil, violation("reply to cookie %d, which nobody waits for", cookie)
}

func (c *conn) simple(errno uint32, cookie uint64) error {
	cl, err := c.lookup(cookie)
	if err != nil {
		return err
	}
	if errno != 0 {
		c.complete(cl, &ServerError{Errno: errno})
		return nil
	}
	if c.exportInfo.structured || cl.cmd != cmdRead {
		return violation("simple reply to command %d", cl.cmd)
	}
	if err := c.fill(cl, cl.p); err != nil {
		return fmt.Errorf("read data: %w", err)
	}
	c.complete(cl, nil)
	return nil
}

// chunk is the header of one structured reply.
type chunk struct {
	flags, kind uint16
	length      int64 // of the payload
}

func (c *conn) structuredChunk(k chunk, cookie uint64) error {
	if !c.exportInfo.structured {
		return violation("structured reply without having negotiated it")
	}
	cl, err := c.lookup(cookie)
	if err != nil {
		return err
	}
	if err := c.payload(cl, k); err != nil {
		return err
	}
	if k.flags&chunkDone == 0 {
		return nil
	}
	if cl.err == nil {
		if err := cl.whole(); err != nil {
			return err
		}
	}
	c.complete(cl, cl.err)
	return nil
}

func (c *conn) payload(cl *call, k chunk) error {
	switch {
	case k.kind == chunkNone:
		if k.length != 0 || k.flags&chunkDone == 0 {
			return violation("empty chunk of %d bytes, or not the last one", k.length)
		}
		return nil
	case k.kind == chunkData && cl.cmd == cmdRead:
		return c.data(cl, k.length)
	case k.kind == chunkHole && cl.cmd == cmdRead:
		return c.hole(cl, k.length)
	case k.kind == chunkBlockStatus && cl.cmd == cmdBlockStatus:
		return c.blockStatus(cl, k.length)
	case k.kind&chunkError != 0:
		return c.errorChunk(cl, k)
	}
	return violation("chunk of type %d to command %d", k.kind, cl.cmd)
}

func (c *conn) data(cl *call, length int64) error {
	if length <= 8 {
		return violation("data chunk of %d bytes", length)
	}
	var b [8]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return fmt.Errorf("read chunk: %w", noEOF(err))
	}
	start, err := cl.take(be.Uint64(b[:]), length-8)
	if err != nil {
		return err
	}
	if err := c.fill(cl, cl.p[start:start+length-8]); err != nil {
		return fmt.Errorf("read data: %w", err)
	}
	return nil
}

func (c *conn) hole(cl *call, length int64) error {
	if length != 12 {
		return violation("hole chunk of %d bytes", length)
	}
	var b [12]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return fmt.Errorf("read chunk: %w", noEOF(err))
	}
	n := int64(be.Uint32(b[8:]))
	if n == 0 {
		return violation("empty hole")
	}
	start, err := cl.take(be.Uint64(b[:]), n)
	if err != nil {
		return err
	}
	if c.claim(cl) {
		clear(cl.p[start : start+n])
		c.release()
	}
	return nil
}

// take marks n bytes at an absolute offset as answered and returns their place
// in the buffer.
func (cl *call) take(off uint64, n int64) (int64, error) {
	start := off - uint64(cl.off)
	if off < uint64(cl.off) || start > uint64(cl.length) || n > cl.length-int64(start) {
		return 0, violation("%d bytes at %d answer a read of %d at %d", n, off, cl.length, cl.off)
	}
	return int64(start), cl.cover.add(int64(start), n)
}

// whole tells whether everything asked for was answered.
func (cl *call) whole() error {
	if cl.cmd == cmdRead && !cl.cover.all(cl.length) {
		return violation("answer to a read of %d bytes at %d leaves some out", cl.length, cl.off)
	}
	if cl.cmd == cmdBlockStatus && len(cl.ranges) == 0 {
		return violation("block status of %d bytes at %d without an extent", cl.length, cl.off)
	}
	return nil
}

// errorChunk keeps the first error of a call. Its message is the server's text
// and of no use to anybody who does not run the server: it is dropped.
func (c *conn) errorChunk(cl *call, k chunk) error {
	smallest, largest := int64(6), int64(maxErrorPayload)
	if k.kind == chunkErrOffset {
		smallest, largest = smallest+8, largest+8
	}
	if k.length < smallest || k.length > largest {
		return violation("error chunk of %d bytes", k.length)
	}
	var b [4]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return fmt.Errorf("read chunk: %w", noEOF(err))
	}
	errno := be.Uint32(b[:])
	if errno == 0 {
		return violation("error chunk without an error")
	}
	if cl.err == nil {
		cl.err = &ServerError{Errno: errno}
	}
	if err := c.discard(k.length - 4); err != nil {
		return fmt.Errorf("read chunk: %w", err)
	}
	return nil
}
