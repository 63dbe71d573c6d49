package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sample() Status {
	at := time.Date(2026, 11, 21, 1, 30, 0, 0, time.UTC)
	return Status{
		Version: "0.1.0", PID: 4711, Started: at,
		Runs: []RunStatus{{VM: "lab/web", Run: "20261121T013000Z-1", Group: "nightly", Step: "reading", Done: 1 << 20, Total: 1 << 30, Since: at}},
		VMs: []VMStatus{
			{VM: "lab/db", Group: "nightly", LastStart: at, LastError: "no space left", Next: at.Add(24 * time.Hour)},
			{VM: "lab/web", Group: "nightly", LastSuccess: at, LastPoint: "20261120T013000Z-9f86d081", Running: true},
		},
	}
}

// serve runs an agent's socket until the test ends, or stop is called.
func serve(t *testing.T, h Handlers) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "run", "lull.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	ended := false
	stop = func() {
		t.Helper()
		cancel()
		if ended {
			return
		}
		ended = true
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return path, stop
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func answering(s Status, err error) Handlers {
	return Handlers{Status: func() (Status, error) { return s, err }}
}

func hintOf(err error) string {
	if h := (interface{ Hint() string })(nil); errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func TestStatus(t *testing.T) {
	path, stop := serve(t, answering(sample(), nil))
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket has mode %v: %v", info.Mode(), err)
	}
	got, err := dial(t, path).Status(t.Context())
	if diff := cmp.Diff(sample(), got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	stop()
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 || left[0].Name() != "lull.sock.lock" {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := Dial(path); !errors.Is(err, ErrNotRunning) || hintOf(err) == "" {
		t.Errorf("after the end: %v", err)
	}
}

func TestHandlerErrorReachesTheClient(t *testing.T) {
	path, _ := serve(t, answering(Status{}, &hinted{errors.New("damaged state file /x"), "remove it"}))
	_, err := dial(t, path).Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "damaged state file /x") || hintOf(err) != "remove it" {
		t.Errorf("got %v, hint %q", err, hintOf(err))
	}
}

func TestUnknownRequest(t *testing.T) {
	path, _ := serve(t, answering(Status{}, nil))
	var v any
	err := dial(t, path).get(t.Context(), "/v2/status", &v)
	if err == nil || !strings.Contains(err.Error(), "404") || hintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestAnswerIsBounded(t *testing.T) {
	path, _ := serve(t, answering(Status{Version: strings.Repeat("x", maxAnswer)}, nil))
	if _, err := dial(t, path).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

func TestRequestHeaderIsBounded(t *testing.T) {
	path, _ := serve(t, answering(Status{}, nil))
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 64<<10)); err != nil {
		return // cut off while writing
	}
	said := make([]byte, 64)
	n, _ := c.Read(said)
	if n > 0 && !strings.Contains(string(said[:n]), fmt.Sprint(http.StatusRequestHeaderFieldsTooLarge)) {
		t.Errorf("got %q", said[:n])
	}
}

func TestClientGivesUpWithItsContext(t *testing.T) {
	held := make(chan struct{})
	path, _ := serve(t, Handlers{Status: func() (Status, error) { <-held; return Status{}, nil }})
	t.Cleanup(func() { close(held) }) // before the one of serve
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dial(t, path).Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestServeFinishesRequests: a question that was asked is answered, though the
// agent is being stopped.
func TestServeFinishesRequests(t *testing.T) {
	asked, held := make(chan struct{}), make(chan struct{})
	path, stop := serve(t, Handlers{Status: func() (Status, error) {
		close(asked)
		<-held
		return sample(), nil
	}})
	c := dial(t, path)
	answer := make(chan error, 1)
	go func() {
		_, err := c.Status(context.Background())
		answer <- err
	}()
	<-asked
	go close(held)
	stop()
	if err := <-answer; err != nil {
		t.Errorf("got %v", err)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	path, stop := serve(t, answering(sample(), nil))
	if _, err := Listen(path); !errors.Is(err, ErrRunning) || hintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	if _, err := dial(t, path).Status(t.Context()); err != nil {
		t.Errorf("the first agent no longer answers: %v", err)
	}
	stop()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestSocketOfADeadAgent: socket and lock file are there, nobody holds them.
func TestSocketOfADeadAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lull.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dial: %v", err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file in the way: %v", err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file in the way now holds %q: %v", data, err)
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", MaxPath))); err == nil || hintOf(err) == "" {
		t.Errorf("a long path: %v", err)
	}
	if _, err := Listen(filepath.Join(file, "lull.sock")); err == nil {
		t.Error("a folder that is a file was taken")
	}
}

func TestListenTakesTheLongestPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("x", MaxPath-len(dir)-1))
	l, err := Listen(path)
	if err != nil {
		t.Fatalf("path of %d bytes: %v", len(path), err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestOtherUsersAreRefused: the peer's user is looked at, and the connection of
// a wrong one is closed without a byte.
func TestOtherUsersAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	turned := make(chan uint32, 1)
	nobody := guarded{socket, func(uint32) bool { return false }, func(uid uint32) { turned <- uid }}
	accepted := make(chan error, 1)
	go func() {
		_, err := nobody.Accept()
		accepted <- err
	}()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if uid := <-turned; int(uid) != os.Geteuid() {
		t.Errorf("the peer is user %d, want %d", uid, os.Geteuid())
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	socket.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	if !owners(0) || !owners(uint32(os.Geteuid())) || owners(uint32(os.Geteuid())+1) {
		t.Error("owners are not root and this user")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l := limit(socket, 1)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	var peers []net.Conn
	for range 2 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, c)
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Error("a second connection beyond the limit of one")
	default:
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	second := <-accepted
	if err := l.Close(); err != nil { // while Accept waits for a slot
		t.Error(err)
	}
	if _, more := <-accepted; more {
		t.Error("a connection after Close")
	}
	for _, c := range append(peers, second) {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
