package vmstate

import (
	"errors"
	"io"
)

// gather writes what lies one after the other in large pieces.
type gather struct {
	f       io.WriterAt
	at      int64 // where it began
	n       int64 // bytes so far
	pending []byte
}

// write appends.
func (g *gather) write(b []byte) error {
	room, err := g.grow(len(b))
	copy(room, b)
	return err
}

// readFrom appends n bytes.
func (g *gather) readFrom(r io.Reader, n int) error {
	room, err := g.grow(n)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(r, room)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// grow is room for n bytes more, at most bufferSize.
func (g *gather) grow(n int) ([]byte, error) {
	if len(g.pending)+n > bufferSize {
		if err := g.flush(); err != nil {
			return nil, err
		}
	}
	if g.pending == nil {
		g.pending = make([]byte, 0, bufferSize)
	}
	end := len(g.pending)
	g.pending = g.pending[:end+n]
	g.n += int64(n)
	return g.pending[end:], nil
}

// moveTo goes on at another place.
func (g *gather) moveTo(at int64) error {
	if at == g.at+g.n {
		return nil
	}
	err := g.flush()
	g.at, g.n = at, 0
	return err
}

// flush writes what is pending.
func (g *gather) flush() error {
	if len(g.pending) == 0 {
		return nil
	}
	_, err := g.f.WriteAt(g.pending, g.at+g.n-int64(len(g.pending)))
	g.pending = g.pending[:0]
	return err
}
