package plugins

import (
	"context"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
)

type quietStream struct{ grpc.ClientStream }

func (quietStream) RecvMsg(any) error { return nil }

// A plugin that offers services without end is killed; its other streams count as what
// they carry.
func TestBrokerFlood(t *testing.T) {
	open := func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
		return quietStream{}, nil
	}
	for method, want := range map[string]bool{brokerStream: true, "/plugin.GRPCStdio/StreamStdio": false} {
		synctest.Test(t, func(t *testing.T) {
			killed := false
			s, err := newFlood(func() { killed = true }).watchBroker(t.Context(), nil, nil, method, open)
			if err != nil {
				t.Fatal(err)
			}
			for n := range floodBurst/brokerCost + 1 {
				if killed {
					t.Fatalf("%s: killed after %d messages", method, n)
				}
				if err := s.RecvMsg(nil); err != nil {
					t.Fatal(err)
				}
			}
			if killed != want {
				t.Errorf("%s: killed %v, want %v", method, killed, want)
			}
		})
	}
}

// A connection beyond those that a plugin may have is closed, and one that ends makes room.
func TestFewConns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	inner, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l := newFewConns(inner)
	defer l.Close()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var last net.Conn
	for range guestConns {
		defer dial().Close()
		if last, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		defer last.Close()
	}
	extra := dial()
	defer extra.Close()
	var accepted atomic.Bool
	ended := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		accepted.Store(err == nil)
		if err == nil {
			err = c.Close()
		}
		ended <- err
	}()
	if _, err := extra.Read(make([]byte, 1)); err == nil || accepted.Load() {
		t.Errorf("read of the connection that is too many: %v, accepted %v", err, accepted.Load())
	}
	if err := last.Close(); err != nil {
		t.Fatal(err)
	}
	defer dial().Close()
	if err := <-ended; err != nil || !accepted.Load() {
		t.Errorf("accept with room again: %v", err)
	}
}
