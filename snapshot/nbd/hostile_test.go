package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

const testSize = 1 << 20

// hello is the server's side of a handshake: an export of testSize bytes with
// base:allocation as context 1.
func hello() []byte {
	b := be.AppendUint64(nil, magicInit)
	b = be.AppendUint64(b, magicOption)
	b = be.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	b = optReply(b, optStructuredReply, repAck, nil)
	b = optReply(b, optSetMetaContext, repMetaContext, append([]byte{0, 0, 0, 1}, ContextAllocation...))
	b = optReply(b, optSetMetaContext, repAck, nil)
	info := be.AppendUint16(nil, infoExport)
	info = be.AppendUint64(info, testSize)
	b = optReply(b, optGo, repInfo, be.AppendUint16(info, 1|FlagReadOnly))
	return optReply(b, optGo, repAck, nil)
}

func optReply(b []byte, opt, kind uint32, data []byte) []byte {
	b = be.AppendUint64(b, magicOptReply)
	b = be.AppendUint32(b, opt)
	b = be.AppendUint32(b, kind)
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func chunkOf(cookie uint64, flags, kind uint16, payload []byte) []byte {
	b := be.AppendUint32(nil, magicStructured)
	b = be.AppendUint16(b, flags)
	b = be.AppendUint16(b, kind)
	b = be.AppendUint64(b, cookie)
	b = be.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

func dataChunk(cookie uint64, flags uint16, off uint64, data string) []byte {
	return chunkOf(cookie, flags, chunkData, append(be.AppendUint64(nil, off), data...))
}

func holeChunk(cookie uint64, flags uint16, off uint64, n uint32) []byte {
	return chunkOf(cookie, flags, chunkHole, be.AppendUint32(be.AppendUint64(nil, off), n))
}

func statusChunk(cookie uint64, id uint32, words ...uint32) []byte {
	b := be.AppendUint32(nil, id)
	for _, w := range words {
		b = be.AppendUint32(b, w)
	}
	return chunkOf(cookie, chunkDone, chunkBlockStatus, b)
}

// peer is a scripted server: it plays the handshake, and then answers by hand.
type peer struct {
	t  *testing.T
	nc net.Conn
}

func connect(t *testing.T) (*Client, *peer) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { far.Close() })
	go func() {
		var b [4096]byte
		sent := make(chan struct{})
		go func() { far.Write(hello()); close(sent) }()
		for range 4 { // flags and three options, one write each
			far.Read(b[:])
		}
		<-sent
	}()
	c, err := open(func() (*conn, error) {
		return newConn(t.Context(), near, "e", Options{}.names())
	}, "e", Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c, &peer{t: t, nc: far}
}

func (p *peer) request() (cookie uint64) {
	p.t.Helper()
	var b [28]byte
	if _, err := io.ReadFull(p.nc, b[:]); err != nil {
		p.t.Fatal(err)
	}
	return be.Uint64(b[8:])
}

func (p *peer) send(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// finish hangs up, so that Close need not wait for it.
func (p *peer) finish(c *Client) {
	p.nc.Close()
	c.Close()
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestReadReplies(t *testing.T) {
	for name, tc := range map[string]struct {
		reply func(cookie uint64) []byte
		want  string // of 8 bytes at 4096
		err   error
	}{
		"one chunk": {reply: func(k uint64) []byte { return dataChunk(k, chunkDone, 4096, "abcdefgh") }, want: "abcdefgh"},
		"scattered, hole in the middle": {reply: func(k uint64) []byte {
			return join(dataChunk(k, 0, 4102, "gh"), dataChunk(k, 0, 4096, "ab"), holeChunk(k, 0, 4098, 4), chunkOf(k, chunkDone, chunkNone, nil))
		}, want: "ab\x00\x00\x00\x00gh"},
		"overlap": {reply: func(k uint64) []byte {
			return join(dataChunk(k, 0, 4096, "abcd"), dataChunk(k, chunkDone, 4099, "efghi"))
		}, err: ErrProtocol},
		"before the range": {reply: func(k uint64) []byte { return dataChunk(k, chunkDone, 4095, "abcdefgh") }, err: ErrProtocol},
		"past the range":   {reply: func(k uint64) []byte { return dataChunk(k, chunkDone, 4096, "abcdefghi") }, err: ErrProtocol},
		"offset wraps":     {reply: func(k uint64) []byte { return dataChunk(k, chunkDone, 1<<64-1, "abcdefgh") }, err: ErrProtocol},
		"huge hole":        {reply: func(k uint64) []byte { return holeChunk(k, chunkDone, 4096, 1<<32-1) }, err: ErrProtocol},
		"empty hole":       {reply: func(k uint64) []byte { return holeChunk(k, chunkDone, 4096, 0) }, err: ErrProtocol},
		"empty data":       {reply: func(k uint64) []byte { return dataChunk(k, chunkDone, 4096, "") }, err: ErrProtocol},
		"part left out":    {reply: func(k uint64) []byte { return dataChunk(k, chunkDone, 4096, "abcdefg") }, err: ErrProtocol},
		"nothing at all":   {reply: func(k uint64) []byte { return chunkOf(k, chunkDone, chunkNone, nil) }, err: ErrProtocol},
		"wrong cookie":     {reply: func(k uint64) []byte { return dataChunk(k+1, chunkDone, 4096, "abcdefgh") }, err: ErrProtocol},
		"status to a read": {reply: func(k uint64) []byte { return statusChunk(k, 1, 8, 0) }, err: ErrProtocol},
		"simple success": {reply: func(k uint64) []byte {
			return join([]byte{0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0}, be.AppendUint64(nil, k))
		}, err: ErrProtocol},
		"cut off": {reply: func(k uint64) []byte { return dataChunk(k, chunkDone, 4096, "abcdefgh")[:30] }, err: snapshot.ErrGone},
		"shutting down": {reply: func(k uint64) []byte {
			return chunkOf(k, chunkDone, chunkError|1, []byte{0, 0, 0, errShutdown, 0, 0})
		}, err: snapshot.ErrGone},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := connect(t)
			go func() {
				p.nc.Write(tc.reply(p.request()))
				p.nc.Close()
			}()
			got := make([]byte, 8)
			err := c.ReadAt(t.Context(), got, 4096)
			if !errors.Is(err, tc.err) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
			if err == nil && string(got) != tc.want {
				t.Errorf("read %q, want %q", got, tc.want)
			}
			c.Close()
		})
	}
}

func TestExtentReplies(t *testing.T) {
	const zero = StateHole | StateZero
	for name, tc := range map[string]struct {
		words []uint32
		id    uint32
		err   error
	}{
		"whole":           {id: 1, words: []uint32{4096, 0, 8192, zero, testSize - 12288, 0}},
		"longer at last":  {id: 1, words: []uint32{4096, 0, 1 << 31, zero}},
		"one too many":    {id: 1, words: []uint32{testSize, 0, 8192, zero}, err: ErrProtocol},
		"empty extent":    {id: 1, words: []uint32{4096, 0, 0, zero}, err: ErrProtocol},
		"no extent":       {id: 1, err: ErrProtocol},
		"half an extent":  {id: 1, words: []uint32{4096}, err: ErrProtocol},
		"unknown context": {id: 9, words: []uint32{testSize, 0}, err: ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := connect(t)
			go func() {
				p.nc.Write(statusChunk(p.request(), tc.id, tc.words...))
				p.nc.Close()
			}()
			got, err := c.Extents(t.Context(), 0, testSize)
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			at := int64(0)
			for _, e := range got {
				if e.Offset != at {
					t.Errorf("extent %+v where %d was due", e, at)
				}
				at += e.Length
			}
			if err == nil && at != testSize {
				t.Errorf("extents end at %d", at)
			}
			c.Close()
		})
	}
}

// TestLateReply gives up on reads at every stage of their reply, and sees that
// their buffers stay as they are while the connection goes on.
func TestLateReply(t *testing.T) {
	c, p := connect(t)
	defer p.finish(c)
	reply := func(k uint64) []byte { return dataChunk(k, chunkDone, 0, string(bytes.Repeat([]byte{7}, 64<<10))) }
	for _, early := range []int{0, 10, 20, 28, 29, 5000, 40_000} {
		ctx, cancel := context.WithCancel(t.Context())
		buf := make([]byte, 64<<10)
		ended := make(chan error)
		go func() { ended <- c.ReadAt(ctx, buf, 0) }()
		answer := reply(p.request())
		p.send(answer[:early])
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		clear(buf)
		p.send(answer[early:])

		next := make([]byte, 64<<10)
		go func() { ended <- c.ReadAt(t.Context(), next, 0) }()
		p.send(reply(p.request()))
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if len(bytes.Trim(next, "\x07")) != 0 {
			t.Errorf("the read after a late reply is wrong")
		}
		if len(bytes.Trim(buf, "\x00")) != 0 {
			t.Errorf("a late reply was written into an abandoned buffer (%d bytes early)", early)
		}
	}
}

// TestOutOfOrder answers requests in reverse.
func TestOutOfOrder(t *testing.T) {
	c, p := connect(t)
	defer p.finish(c)
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			got := make([]byte, 1)
			if err := c.ReadAt(t.Context(), got, int64(i)); err != nil || got[0] != byte(i) {
				t.Errorf("read %d: %v %v", i, got, err)
			}
		})
	}
	type asked struct{ cookie, off uint64 }
	var all []asked
	for range n {
		var b [28]byte
		if _, err := io.ReadFull(p.nc, b[:]); err != nil {
			t.Fatal(err)
		}
		all = append(all, asked{binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])})
	}
	for i := range all {
		a := all[n-1-i]
		p.send(dataChunk(a.cookie, chunkDone, a.off, string([]byte{byte(a.off)})))
	}
	wg.Wait()
}

func TestSilentServer(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		io.ReadFull(far, make([]byte, 1)) // never: the server says nothing
	}()
	cancel()
	if _, err := newConn(ctx, near, "e", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}
