package s3

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"time"
)

const (
	connections = 64 // kept open to the store; more may be opened
	dialLimit   = 10 * time.Second
	// replyLimit is the time from the last byte of a request to the first of its
	// reply: a store may sync tens of MiB to its disks in between.
	replyLimit = time.Minute
	stallLimit = 30 * time.Second
)

func (s *Store) newTransport(roots *x509.CertPool) *http.Transport {
	dialer := &net.Dialer{Timeout: dialLimit, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &stallConn{conn, s.stall}, nil
		},
		TLSClientConfig:       tlsConfig(roots),
		TLSHandshakeTimeout:   dialLimit,
		ResponseHeaderTimeout: replyLimit,
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          connections,
		MaxIdleConnsPerHost:   connections,
		IdleConnTimeout:       90 * time.Second,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
		DisableCompression:    true, // a length must mean the object's bytes
	}
}

// stallConn is a connection on which no single write may take longer than limit.
// HTTP writes a body in small pieces, so that is a limit on standing still, not on
// being slow.
type stallConn struct {
	net.Conn
	limit time.Duration
}

func (c *stallConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// watch is a context that ends when alive was not called for limit, or stop was.
func watch(ctx context.Context, limit time.Duration) (watched context.Context, alive func(), stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { cancel(fmt.Errorf("no byte arrived for %v", limit)) })
	return watched, func() { timer.Reset(limit) }, func() { timer.Stop(); cancel(nil) }
}
