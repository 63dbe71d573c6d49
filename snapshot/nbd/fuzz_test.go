package nbd

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// tape is a server that plays a recorded stream, whatever it is told. Bytes
// after the handshake come once the first request was made.
type tape struct {
	net.Conn // not set: methods that are not here are not called
	r        *bytes.Reader
	gate     int // bytes that may be read ahead of a request; -1: all

	opened chan struct{}
	closed chan struct{}
	once   sync.Once
	open   sync.Once
}

func newTape(stream []byte, gate int) *tape {
	return &tape{r: bytes.NewReader(stream), gate: gate, opened: make(chan struct{}), closed: make(chan struct{})}
}

func (t *tape) Read(p []byte) (int, error) {
	if t.gate < 0 {
		return t.r.Read(p)
	}
	if t.gate > 0 {
		n, err := t.r.Read(p[:min(len(p), t.gate)])
		t.gate -= n
		return n, err
	}
	select {
	case <-t.opened:
		return t.r.Read(p)
	case <-t.closed:
		return 0, io.ErrClosedPipe
	}
}

func (t *tape) Write(p []byte) (int, error) {
	if len(p) >= 28 && be.Uint32(p) == magicRequest {
		t.open.Do(func() { close(t.opened) })
	}
	return len(p), nil
}

func (t *tape) Close() error                    { t.once.Do(func() { close(t.closed) }); return nil }
func (t *tape) SetReadDeadline(time.Time) error { return nil }

// FuzzNegotiate plays a hostile server from its first byte on.
func FuzzNegotiate(f *testing.F) {
	f.Add(hello())
	f.Add(hello()[:40])
	f.Add(optReply(hello()[:18], optStructuredReply, repErrTLSReqd, []byte("no")))
	f.Fuzz(func(t *testing.T, stream []byte) {
		nc := newTape(stream, -1)
		c, err := newConn(t.Context(), nc, "e", []string{ContextAllocation})
		if err == nil {
			c.close()
		}
	})
}

// FuzzReplies plays a hostile server after a good handshake.
func FuzzReplies(f *testing.F) {
	f.Add(dataChunk(1, chunkDone, 4096, "abcdefgh"))
	f.Add(join(dataChunk(1, 0, 4102, "gh"), holeChunk(1, 0, 4098, 4), dataChunk(1, chunkDone, 4096, "ab")))
	f.Add(join(holeChunk(1, chunkDone, 4096, 8), statusChunk(2, 1, 4096, 3, testSize, 0)))
	f.Add(chunkOf(1, chunkDone, chunkErrOffset, make([]byte, 14)))
	f.Fuzz(func(t *testing.T, stream []byte) {
		prefix := hello()
		nc := newTape(append(prefix, stream...), len(prefix))
		c, err := open(func() (*conn, error) {
			return newConn(t.Context(), nc, "e", []string{ContextAllocation})
		}, "e", Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		guard := bytes.Repeat([]byte{0xaa}, 24)
		if c.ReadAt(t.Context(), guard[8:16], 4096) == nil {
			extents, err := c.Extents(t.Context(), 0, testSize)
			at := int64(0)
			for _, e := range extents {
				if e.Offset != at {
					t.Fatalf("extent %+v where %d was due", e, at)
				}
				at += e.Length
			}
			if err == nil && at != testSize {
				t.Fatalf("extents end at %d", at)
			}
		}
		if len(bytes.Trim(guard[:8], "\xaa")) != 0 || len(bytes.Trim(guard[16:], "\xaa")) != 0 {
			t.Fatal("a reply was written beside the buffer")
		}
	})
}
