package plugins

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc"
)

// What a plugin may have under way with the guest service at once. Each call may fill a
// message before anybody asks what the plugin is granted.
const (
	guestCalls = 16 // a connection
	guestConns = 2  // one, and the next where that broke
)

// fewConns closes what comes while it has handed out as many connections as it may.
type fewConns struct {
	net.Listener
	taken chan struct{}
}

func newFewConns(l net.Listener) *fewConns { return &fewConns{l, make(chan struct{}, guestConns)} }

func (l *fewConns) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.taken <- struct{}{}:
			return &takenConn{Conn: c, giveBack: sync.OnceFunc(func() { <-l.taken })}, nil
		default:
			_ = c.Close() // whose end it is
		}
	}
}

type takenConn struct {
	net.Conn
	giveBack func()
}

func (c *takenConn) Close() error {
	defer c.giveBack()
	return c.Conn.Close()
}

// The stream by which a plugin offers services. lull wants none, and go-plugin keeps
// something of each message for seconds, or for ever.
const (
	brokerStream = "/plugin.GRPCBroker/StartStream"
	brokerCost   = 4 << 10 // bytes of output that a message counts for
)

// watchBroker is a grpc.StreamClientInterceptor.
func (f *flood) watchBroker(ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, d, conn, method, o...)
	if err == nil && method == brokerStream {
		s = &floodStream{s, f}
	}
	return s, err
}

type floodStream struct {
	grpc.ClientStream
	flood *flood
}

func (s *floodStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.flood.add(brokerCost)
	}
	return err
}
