package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

// link is the connection to libvirt's daemon that all share. One that has ended is made
// anew, for which a daemon that restarts is waited for.
type link struct {
	address rpc.Address
	opt     rpc.Options

	dialing chan struct{} // holds the one who dials

	mu   sync.Mutex
	conn *rpc.Conn
	met  bool // it was there once
}

func newLink(address rpc.Address, opt rpc.Options) *link {
	return &link{address: address, opt: opt, dialing: make(chan struct{}, 1)}
}

// get finds or makes a connection that lives.
func (l *link) get(ctx context.Context) (*rpc.Conn, error) {
	select {
	case l.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.dialing }()
	conn, met := l.alive()
	if conn != nil {
		return conn, nil
	}
	conn, err := l.dial(ctx, met)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.met = conn, true
	return conn, nil
}

// alive is the connection there is, or nil; one that has ended is closed.
func (l *link) alive() (conn *rpc.Conn, met bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return nil, l.met
	}
	select {
	case <-l.conn.Done():
		_ = l.conn.Close() // it has ended
		l.conn = nil
	default:
	}
	return l.conn, l.met
}

// dial waits for a daemon that was there before.
func (l *link) dial(ctx context.Context, met bool) (*rpc.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, restart)
	defer cancel()
	tick := time.NewTicker(knockAgain)
	defer tick.Stop()
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
