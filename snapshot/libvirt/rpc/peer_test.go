package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// script answers a call; nil: with nothing.
type script func(p *peer, h header, payload []byte)

// peer is the other end of a connection, played by a script.
type peer struct {
	t    *testing.T
	conn net.Conn
}

// dialPeer connects a Conn to a peer that does what play says with every frame but
// keep-alives.
func dialPeer(t *testing.T, opt Options, play script) (*Conn, *peer) {
	t.Helper()
	ours, theirs := net.Pipe()
	p := &peer{t: t, conn: theirs}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			h, payload, err := readFrame(theirs)
			if err != nil {
				return
			}
			play(p, h, payload)
		}
	}()
	c := start(ours, opt)
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), theirs.Close()); err != nil {
			t.Error(err)
		}
		<-over
	})
	return c, p
}

func (p *peer) send(h header, payload []byte) {
	b, err := frame(h, payload)
	if err != nil {
		p.t.Error(err)
		return
	}
	p.raw(b)
}

func (p *peer) raw(b []byte) {
	if _, err := p.conn.Write(b); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		p.t.Error(err)
	}
}

// reply answers a call with values.
func (p *peer) reply(h header, values ...argument) {
	h.kind, h.status = typeReply, statusOK
	p.send(h, payloadOf(values...))
}

// refuse answers a call with an error.
func (p *peer) refuse(h header, code Code, message string) {
	h.kind, h.status = typeReply, statusError
	p.send(h, errorPayload(code, message))
}

func (p *peer) event(procedure uint32, values ...argument) {
	p.send(header{program: programRemote, procedure: procedure, kind: typeMessage}, payloadOf(values...))
}

func payloadOf(values ...argument) []byte {
	var w writer
	for _, v := range values {
		v.put(&w)
	}
	return w.b
}

func errorPayload(code Code, message string) []byte {
	const fromQEMU, level = 10, 2
	return payloadOf(i32(code), i32(fromQEMU), opt(message), i32(level), present{web()},
		opt("x"), opt(""), opt(""), i32(-1), i32(0), u32(0))
}

func web() Domain { return Domain{Name: "web", UUID: UUID{1, 2, 3}, ID: 4} }

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
