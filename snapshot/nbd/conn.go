package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// disconnectTime is how long a server has to hang up after we said goodbye.
const disconnectTime = 5 * time.Second

// call is one request and what came back for it. From its registration to its
// completion it belongs to the reader, but for abandoned.
type call struct {
	cookie uint64
	cmd    uint16
	off    int64
	length int64

	p     []byte // cmdRead: where the bytes go
	cover coverage

	context uint32 // cmdBlockStatus: whose answer is kept
	ranges  []Range
	seen    map[uint32]bool // contexts that were answered

	err       error      // the server's first error
	abandoned bool       // under conn.mu: the caller is gone, so is p
	done      chan error // one result
}

// conn is one connection in its transmission phase.
type conn struct {
	exportInfo
	nc    net.Conn
	r     *bufio.Reader // the reader's
	slots chan struct{} // one element a request in flight
	send  chan [28]byte
	dead  chan struct{} // closed when no call can succeed any more

	closing sync.Once
	tasks   sync.WaitGroup // reader and writer

	mu      sync.Mutex
	idle    sync.Cond // filling became nil
	pending map[uint64]*call
	cookie  uint64
	filling *call // whose buffer the reader writes into right now
	kicked  bool  // a read deadline was set to get the reader off filling
	err     error // why no new call is taken
}

// newConn negotiates over nc, which it owns from now on, and starts the
// reader and the writer. The end of ctx ends the negotiation.
func newConn(ctx context.Context, nc net.Conn, export string, contexts []string) (*conn, error) {
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	info, err := negotiate(nc, export, contexts)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	c := &conn{
		exportInfo: info,
		nc:         nc,
		r:          bufio.NewReaderSize(nc, 16<<10),
		slots:      make(chan struct{}, maxInFlight),
		send:       make(chan [28]byte, maxInFlight+1), // and the goodbye
		dead:       make(chan struct{}),
		pending:    map[uint64]*call{},
	}
	c.idle.L = &c.mu
	c.tasks.Go(c.readReplies)
	c.tasks.Go(c.writeRequests)
	return c, nil
}

// do sends a call and waits for its completion or the end of ctx.
func (c *conn) do(ctx context.Context, cl *call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.dead:
		return c.cause()
	}
	cl.done = make(chan error, 1)
	if err := c.register(cl); err != nil {
		return err
	}
	c.send <- cl.request() // never blocks: as many places as slots
	select {
	case err := <-cl.done:
		return err
	case <-ctx.Done():
		return c.abandon(ctx, cl)
	}
}

func (c *conn) register(cl *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.cookie++
	cl.cookie = c.cookie
	c.pending[cl.cookie] = cl
	return nil
}

// abandon gives up on a call; on return nothing is written into its buffer any
// more. A result that is already there wins.
func (c *conn) abandon(ctx context.Context, cl *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[cl.cookie] != cl {
		return <-cl.done
	}
	cl.abandoned = true
	for c.filling == cl {
		c.kicked = true
		c.nc.SetReadDeadline(time.Unix(1, 0)) // on an error the reader is failing anyway
		c.idle.Wait()
	}
	return ctx.Err()
}

// claim lets the reader write into the buffer of a call until release.
func (c *conn) claim(cl *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl.abandoned {
		return false
	}
	c.filling = cl
	return true
}

// release ends a claim. It reports whether the reader was kicked off it, in
// which case a deadline error means nothing.
func (c *conn) release() (kicked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kicked, c.kicked = c.kicked, false
	if kicked {
		c.nc.SetReadDeadline(time.Time{})
	}
	c.filling = nil
	c.idle.Broadcast()
	return kicked
}

// fill reads len(dst) bytes of the stream into dst, part of the buffer of cl,
// or discards them once cl is abandoned.
func (c *conn) fill(cl *call, dst []byte) error {
	for len(dst) > 0 {
		if !c.claim(cl) {
			return c.discard(int64(len(dst)))
		}
		n, err := c.r.Read(dst)
		kicked := c.release()
		dst = dst[n:]
		if err != nil && !(kicked && errors.Is(err, os.ErrDeadlineExceeded)) {
			return noEOF(err)
		}
	}
	return nil
}

func (c *conn) discard(n int64) error {
	for n > 0 {
		step, err := c.r.Discard(int(min(n, 1<<20)))
		if err != nil {
			return noEOF(err)
		}
		n -= int64(step)
	}
	return nil
}

// complete hands a call its result and frees its slot.
func (c *conn) complete(cl *call, err error) {
	c.mu.Lock()
	delete(c.pending, cl.cookie)
	c.mu.Unlock()
	cl.done <- err
	<-c.slots
}

// refuse makes err the reason why no new call is taken; the first one stays.
func (c *conn) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *conn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// readReplies is the reader's goroutine; it alone ends the connection.
func (c *conn) readReplies() {
	err := c.replies()
	if !errors.Is(err, ErrProtocol) {
		err = fmt.Errorf("%w: NBD connection lost: %w", snapshot.ErrGone, err)
	}
	c.refuse(err)
	c.nc.Close()
	close(c.dead)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.pending {
		cl.done <- c.err
	}
	clear(c.pending)
}

// writeRequests is the writer's goroutine. Requests that wait together travel
// together.
func (c *conn) writeRequests() {
	w := bufio.NewWriterSize(c.nc, 28*maxInFlight)
	for {
		select {
		case req := <-c.send:
			_, err := w.Write(req[:])
			if err == nil && len(c.send) == 0 {
				err = w.Flush()
			}
			if err != nil {
				c.nc.Close() // the reader notices, and tells everybody
				return
			}
			if be.Uint16(req[6:]) == cmdDisconnect {
				w.Flush() // best effort: the server sees the end of the stream too
				return
			}
		case <-c.dead:
			return
		}
	}
}

// close says goodbye, waits until the server has hung up, and for both
// goroutines. Calls in flight get their reply or ErrClosed.
func (c *conn) close() {
	c.closing.Do(func() {
		c.refuse(ErrClosed)
		timer := time.AfterFunc(disconnectTime, func() { c.nc.Close() })
		defer timer.Stop()
		select {
		case c.send <- (&call{cmd: cmdDisconnect}).request():
		case <-c.dead:
		}
		c.tasks.Wait()
	})
	c.tasks.Wait()
}

func (cl *call) request() (b [28]byte) {
	be.PutUint32(b[:], magicRequest)
	be.PutUint16(b[6:], cl.cmd)
	be.PutUint64(b[8:], cl.cookie)
	be.PutUint64(b[16:], uint64(cl.off))
	be.PutUint32(b[24:], uint32(cl.length))
	return b
}
