package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const greeting = `{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}`

// peer is the other end of a socket: it plays what a test scripted.
type peer struct {
	t    *testing.T
	path string
	play sync.WaitGroup
}

// session is one connection to a peer.
type session struct {
	t    *testing.T
	conn *net.UnixConn
	in   *bufio.Reader
}

// listen serves one connection after the other, each with script.
func listen(t *testing.T, script func(*session)) *peer {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, path: filepath.Join(dir, "s")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p.play.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			script(&session{t: t, conn: conn, in: bufio.NewReader(conn)})
			conn.Close()
			stop()
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		p.play.Wait()
		os.RemoveAll(dir)
	})
	return p
}

func (s *session) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.conn, format+"\n", args...) // a test may have left
}

// hear reads one command; its zero value means that the other side left.
func (s *session) hear() (c heard) {
	line, err := s.in.ReadBytes('\n')
	if err != nil {
		return heard{}
	}
	for len(line) > 0 && line[0] == 0xFF {
		c.Delimited, line = true, line[1:]
	}
	if err := json.Unmarshal(line, &c); err != nil {
		s.t.Errorf("the peer heard %q: %v", line, err)
	}
	return c
}

// heard is a command at the peer's side.
type heard struct {
	Execute   string
	Arguments json.RawMessage
	ID        string
	Delimited bool `json:"-"`
}

// monitor greets, negotiates, and then plays script.
func monitor(t *testing.T, script func(*session)) *peer {
	t.Helper()
	return listen(t, func(s *session) {
		s.say("%s", greeting)
		if c := s.hear(); c.Execute != "qmp_capabilities" {
			return
		} else {
			s.say(`{"return": {}, "id": %q}`, c.ID)
		}
		script(s)
	})
}

// patience bounds what a test waits for on a busy machine.
func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, p *peer) *Client {
	t.Helper()
	c, err := Dial(patience(t), p.path, Options{})
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
