package nbd

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"
	"testing"
)

// TestSettle: it says goodbye by the protocol, and waits for the server to hang up.
func TestSettle(t *testing.T) {
	greeting := hello()[:18]
	t.Run("nobody", func(t *testing.T) {
		if err := Settle(t.Context(), "unix", filepath.Join(t.TempDir(), "s")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a socket that is not there: %v", err)
		}
		l := listen(t)
		l.SetUnlinkOnClose(false)
		l.Close()
		if err := Settle(t.Context(), "unix", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a socket of nobody: %v", err)
		}
	})
	t.Run("waits", func(t *testing.T) {
		l, done := listen(t), make(chan error, 1)
		go func() { done <- Settle(t.Context(), "unix", l.Addr().String()) }()
		nc := accept(t, l)
		nc.Write(greeting)
		want := be.AppendUint32(nil, flagFixedNewstyle|flagNoZeroes)
		want = be.AppendUint64(want, magicOption)
		want = be.AppendUint32(be.AppendUint32(want, optAbort), 0)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(nc, got); err != nil || string(got) != string(want) {
			t.Fatalf("got %x, %v; want %x", got, err, want)
		}
		nc.Write(optReply(nil, optAbort, repAck, nil))
		select {
		case err := <-done:
			t.Fatalf("returned before the server hung up: %v", err)
		default:
		}
		nc.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("mute", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l, done := listen(t), make(chan error, 1)
		go func() { done <- Settle(ctx, "unix", l.Addr().String()) }()
		defer accept(t, l).Close()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("a server that says nothing: %v", err)
		}
	})
	t.Run("talks on", func(t *testing.T) {
		l, done := listen(t), make(chan error, 1)
		go func() { done <- Settle(t.Context(), "unix", l.Addr().String()) }()
		nc := accept(t, l)
		defer nc.Close()
		nc.Write(greeting)
		nc.Write(make([]byte, 2*maxFarewell))
		if err := <-done; !errors.Is(err, ErrProtocol) {
			t.Errorf("a server that never ends: %v", err)
		}
	})
}

func listen(t *testing.T) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func accept(t *testing.T, l *net.UnixListener) net.Conn {
	t.Helper()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return nc
}
