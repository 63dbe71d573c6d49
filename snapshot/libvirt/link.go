package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

const (
	// restart is how long a daemon may take to come back: a VM's QEMU runs on meanwhile.
	restart = time.Minute
	// knockAgain is how often a daemon that is not there is tried again.
	knockAgain = 100 * time.Millisecond
)

// link is a connection to libvirt's daemon. One that has ended is made anew, for which a
// daemon that restarts is waited for.
//
// What can take long has a link of its own: each domain that is served, and each guest
// whose agent is asked. The daemon works on a few calls of a connection at a time, so
// one that stands still, as its QEMU or its agent does, would hold up the others. The one
// that all share asks only what libvirt answers from its own memory.
type link struct {
	address rpc.Address
	opt     rpc.Options
	met     *atomic.Bool // the daemon was there once, for whichever link of the host

	dialing chan struct{} // holds the one who dials

	mu   sync.Mutex
	conn *rpc.Conn
	over bool // nobody may use it any more
}

func newLink(address rpc.Address, opt rpc.Options) *link {
	return &link{address: address, opt: opt, met: &atomic.Bool{}, dialing: make(chan struct{}, 1)}
}

// another is a link to the same daemon.
func (l *link) another() *link {
	return &link{address: l.address, opt: l.opt, met: l.met, dialing: make(chan struct{}, 1)}
}

// get finds or makes a connection that lives.
func (l *link) get(ctx context.Context) (*rpc.Conn, error) {
	select {
	case l.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.dialing }()
	if conn, over := l.alive(); conn != nil || over {
		return conn, overError(over)
	}
	conn, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	l.met.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil, errors.Join(overError(true), conn.Close())
	}
	l.conn = conn
	return conn, nil
}

func overError(over bool) error {
	if over {
		return rpc.ErrClosed
	}
	return nil
}

// alive is the connection there is, or nil; one that has ended is closed.
func (l *link) alive() (conn *rpc.Conn, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return nil, l.over
	}
	select {
	case <-l.conn.Done():
		_ = l.conn.Close() // it has ended
		l.conn = nil
	default:
	}
	return l.conn, l.over
}

// dial waits for a daemon that was there before.
func (l *link) dial(ctx context.Context) (*rpc.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, restart)
	defer cancel()
	tick := time.NewTicker(knockAgain)
	defer tick.Stop()
	met := l.met.Load()
	for {
		conn, err := rpc.Dial(ctx, l.address, l.opt)
		if err == nil || !met || !errors.Is(err, snapshot.ErrUnreachable) && !errors.Is(err, rpc.ErrClosed) {
			return conn, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err // says more than that the time is over
		}
	}
}

// ask asks a question, again where the connection ends over it: it changes nothing.
func (l *link) ask(ctx context.Context, question func(*rpc.Conn) error) error {
	for {
		conn, err := l.get(ctx)
		if err != nil {
			return err
		}
		if err := question(conn); !errors.Is(err, rpc.ErrClosed) || ctx.Err() != nil {
			return err
		}
	}
}

// order has something done, once. errLost: the connection ended, or the daemon fell silent,
// and nobody knows.
func (l *link) order(ctx context.Context, order func(*rpc.Conn) error) error {
	conn, err := l.get(ctx)
	if err != nil {
		return err
	}
	if err := order(conn); errors.Is(err, rpc.ErrClosed) || errors.Is(err, rpc.ErrSilent) {
		return fmt.Errorf("%w: %w", errLost, err)
	} else if err != nil {
		return err
	}
	return nil
}

// close ends the connection; the next who needs one makes it.
func (l *link) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return nil
	}
	err := l.conn.Close()
	l.conn = nil
	return err
}

// end closes the connection for good.
func (l *link) end() error {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	return l.close()
}
