package qmp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

func TestExecute(t *testing.T) {
	p := monitor(t, func(s *session) {
		for c := s.hear(); c.Execute != ""; c = s.hear() {
			switch c.Execute {
			case "query-name":
				s.say(`{"return": {"name": "web"}, "id": %q}`, c.ID)
			default:
				s.say(`{"error": {"class": "CommandNotFound", "desc": "The command %s has not been found"}, "id": %q}`, c.Execute, c.ID)
			}
		}
	})
	c := dial(t, p)
	if v := c.Version(); v != (Version{7, 2, 22}) {
		t.Errorf("version %v", v)
	}
	if pid, err := c.PeerPID(); err != nil || pid != os.Getpid() {
		t.Errorf("peer %d, %v, want %d", pid, err, os.Getpid())
	}
	var got struct{ Name string }
	if err := c.Execute(patience(t), "query-name", nil, &got); err != nil || got.Name != "web" {
		t.Errorf("query-name: %+v, %v", got, err)
	}
	err := c.Execute(patience(t), "fly", map[string]int{"high": 1}, nil)
	if !HasClass(err, ClassCommandNotFound) || !strings.Contains(err.Error(), "fly") {
		t.Errorf("fly: %v", err)
	}
}

func TestAnswersOutOfOrder(t *testing.T) {
	p := monitor(t, func(s *session) {
		first, second := s.hear(), s.hear()
		s.say(`{"return": %q, "id": %q}`, second.Execute, second.ID)
		s.say(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}`)
		s.say(`{"return": %q, "id": %q}`, first.Execute, first.ID)
	})
	c := dial(t, p)
	var both sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		both.Go(func() {
			var got string
			if err := c.Execute(patience(t), name, nil, &got); err != nil || got != name {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		})
	}
	both.Wait()
}

func TestLateAnswerIsDropped(t *testing.T) {
	given := make(chan struct{})
	p := monitor(t, func(s *session) {
		slow := s.hear()
		close(given)
		next := s.hear()
		s.say(`{"return": "slow", "id": %q}`, slow.ID)
		s.say(`{"return": "next", "id": %q}`, next.ID)
		s.hear()
	})
	c := dial(t, p)
	ctx, cancel := context.WithCancel(patience(t))
	go func() { <-given; cancel() }()
	if err := c.Execute(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("slow: %v", err)
	}
	var got string
	if err := c.Execute(patience(t), "next", nil, &got); err != nil || got != "next" {
		t.Errorf("next: %q, %v", got, err)
	}
}

// A QEMU that hangs keeps nobody for ever, and is not taken for one that has gone.
func TestSilentMonitor(t *testing.T) {
	p := monitor(t, func(s *session) {
		slow := s.hear()
		next := s.hear()
		s.say(`{"return": "slow", "id": %q}`, slow.ID)
		s.say(`{"return": "next", "id": %q}`, next.ID)
		s.hear()
	})
	c := dial(t, p)
	c.limit = 20 * time.Millisecond
	err := c.Execute(t.Context(), "slow", nil, nil)
	var hint interface{ Hint() string }
	if !errors.Is(err, ErrSilent) || errors.Is(err, snapshot.ErrUnreachable) || !errors.As(err, &hint) {
		t.Errorf("slow: %v", err)
	}
	c.limit = time.Minute
	var got string
	if err := c.Execute(t.Context(), "next", nil, &got); err != nil || got != "next" {
		t.Errorf("next: %q, %v", got, err)
	}
}

func TestBusyMonitor(t *testing.T) {
	p := listen(t, func(s *session) { s.hear() })
	_, err := Dial(patience(t), p.path, Options{Handshake: 20 * time.Millisecond})
	var hint interface{ Hint() string }
	if !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hint) {
		t.Errorf("Dial: %v", err)
	}
}

// One client is served, one waits; a third finds the queue full.
func TestFullQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	waits, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	if _, err := Dial(patience(t), path, Options{Handshake: 50 * time.Millisecond}); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("got %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	agent := listen(t, func(s *session) { s.say(`{"return": {}}`) })
	leaves := listen(t, func(*session) {})
	for name, path := range map[string]string{"missing": filepath.Join(dir, "missing"), "dead": dead,
		"no monitor": agent.path, "closes at once": leaves.path} {
		if _, err := Dial(patience(t), path, Options{}); !errors.Is(err, snapshot.ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPeerLeaves(t *testing.T) {
	p := monitor(t, func(s *session) { s.hear() })
	c := dial(t, p)
	if err := c.Execute(patience(t), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("quit: %v", err)
	}
	<-c.Done()
	if err := c.Execute(patience(t), "again", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("again: %v", err)
	}
}

func TestBadMessages(t *testing.T) {
	for name, line := range map[string]string{
		"no JSON":   "hello",
		"no answer": `{"id": "lull-2"}`,
		"no id":     `{"return": {}}`,
		"odd id":    `{"return": {}, "id": {"a": 1}}`,
		"too long":  `{"return": "` + strings.Repeat("x", 2000) + `", "id": "lull-2"}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := monitor(t, func(s *session) { s.hear(); s.say("%s", line); s.hear() })
			c, err := Dial(patience(t), p.path, Options{MaxLine: 1000})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = c.Execute(patience(t), "query-status", nil, nil)
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	p := monitor(t, func(s *session) {
		c := s.hear()
		s.say(`{"timestamp": {"seconds": 5, "microseconds": 6}, "event": "STOP"}`)
		for range 2 * queueLength {
			s.say(`{"timestamp": {"seconds": 7, "microseconds": 8}, "event": "BLOCK_JOB_READY", "data": {"device": "j"}}`)
		}
		s.say(`{"return": {}, "id": %q}`, c.ID)
		s.hear()
	})
	c := dial(t, p)
	jobs, all := c.Subscribe("BLOCK_JOB_READY"), c.Subscribe()
	defer all.Close()
	if err := c.Execute(patience(t), "go", nil, nil); err != nil {
		t.Fatal(err)
	}
	e := <-jobs.Events()
	if e.Name != "BLOCK_JOB_READY" || string(e.Data) != `{"device": "j"}` || !e.Time.Equal(time.Unix(7, 8000)) {
		t.Errorf("got %+v", e)
	}
	if n, m := len(jobs.Events()), len(all.Events()); n != queueLength-1 || m != queueLength {
		t.Errorf("%d and %d events are kept, want a queue of %d", n, m, queueLength)
	}
	if e := <-all.Events(); e.Name != "STOP" || e.Data != nil {
		t.Errorf("first of all: %+v", e)
	}
	jobs.Close()
}

func TestExecuteFD(t *testing.T) {
	p := monitor(t, func(s *session) {
		b, oob := make([]byte, 4096), make([]byte, 1024)
		_, n, _, _, err := s.conn.ReadMsgUnix(b, oob)
		if err != nil {
			t.Error(err)
			return
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(msgs) != 1 {
			t.Errorf("control messages %v, %v", msgs, err)
			return
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			t.Errorf("rights %v, %v", fds, err)
			return
		}
		f := os.NewFile(uintptr(fds[0]), "passed")
		_, _ = f.WriteString("from the peer")
		f.Close()
		s.say(`{"return": {}, "id": "lull-2"}`)
		s.hear()
	})
	c := dial(t, p)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := c.ExecuteFD(patience(t), "getfd", map[string]string{"fdname": "x"}, nil, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "from the peer" {
		t.Errorf("read %q, %v", b, err)
	}
}

// A monitor that does not read must not hold its callers for ever.
func TestBlockedWrite(t *testing.T) {
	begun, block := make(chan struct{}), make(chan struct{})
	p := monitor(t, func(s *session) {
		_, _ = s.in.ReadByte()
		close(begun)
		<-block
	})
	defer close(block)
	c := dial(t, p)
	ctx, cancel := context.WithCancel(patience(t))
	go func() { <-begun; cancel() }()
	err := c.Execute(ctx, "big", strings.Repeat("x", 16<<20), nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("big: %v", err)
	}
	if err := c.Execute(patience(t), "next", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("next, after half a command: %v", err)
	}
}
