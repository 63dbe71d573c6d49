package rpc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// DefaultCall is how long a call may take whose context has no deadline.
const DefaultCall = 2 * time.Minute

// DefaultHandshake is how long Dial may take. A daemon that systemd starts for it
// looks at every QEMU of the host first.
const DefaultHandshake = 30 * time.Second

// Options of a Conn. The zero value is good.
type Options struct {
	Handshake time.Duration // 0: DefaultHandshake
	Call      time.Duration // of a call whose context has no deadline; 0: DefaultCall
	// Keepalive is how long nothing comes before the daemon is asked for a sign of
	// life, and again; after Strikes without one it is silent. 0: 5 s, and 6.
	Keepalive time.Duration
	Strikes   int
	// ReadOnly asks for a connection that can only look.
	ReadOnly bool
}

func (o Options) withDefaults() Options {
	if o.Handshake <= 0 {
		o.Handshake = DefaultHandshake
	}
	if o.Call <= 0 {
		o.Call = DefaultCall
	}
	if o.Keepalive <= 0 {
		o.Keepalive = 5 * time.Second
	}
	if o.Strikes <= 0 {
		o.Strikes = 6
	}
	return o
}

// MaxCalls is how many calls of a connection are under way at most; others wait. One that
// was given up on counts until it is answered. The daemon works on five at a time
// (max_client_requests) and reads nothing more from a client that has so many, no signs of
// life either.
const MaxCalls = 4

// Conn is a connection to a daemon of libvirt. All methods are safe for concurrent use.
type Conn struct {
	conn    net.Conn
	opt     Options
	version Version
	work    sync.WaitGroup // the goroutines of the connection
	done    chan struct{}  // closed when it has ended
	pongs   chan struct{}  // sent for the reader, which never writes
	heard   atomic.Bool    // something came since the last look
	calls   chan struct{}  // has one of each call in waiting, MaxCalls at most

	writing sync.Mutex

	mu        sync.Mutex
	serial    uint32
	waiting   map[uint32]*pending
	listeners map[int32]listener // by the callback's id
	monitors  map[int32]*MonitorSubscription
	err       error // why the connection ended
}

// pending is a call whose reply has not come.
type pending struct {
	op     operation
	accept func(*reader) error // called by the reading goroutine, which holds mu; nil: nobody wants it any more
	answer chan error          // room for the one it gets
	file   *os.File            // passed along; nil: none
}

// operation is a procedure, and what it does in the words of an error message.
type operation struct {
	program, procedure uint32
	name               string
}

func remote(procedure uint32, name string) operation {
	return operation{programRemote, procedure, name}
}

func qemu(procedure uint32, name string) operation { return operation{programQEMU, procedure, name} }

// start runs a connection over conn, which it closes in the end.
func start(conn net.Conn, opt Options) *Conn {
	c := &Conn{conn: conn, opt: opt.withDefaults(), done: make(chan struct{}), pongs: make(chan struct{}, 1),
		calls: make(chan struct{}, MaxCalls), waiting: map[uint32]*pending{}, listeners: map[int32]listener{},
		monitors: map[int32]*MonitorSubscription{}}
	c.work.Go(c.read)
	c.work.Go(c.keepAlive)
	return c
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Version of the daemon.
func (c *Conn) Version() Version { return c.version }

// Close ends the connection and waits for its goroutines.
func (c *Conn) Close() error {
	c.end(ErrClosed)
	c.work.Wait()
	return nil
}

// end closes the connection once and tells everyone who waits.
func (c *Conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	_ = c.conn.Close() // nothing is buffered that could be lost
	close(c.done)
}

func (c *Conn) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// read takes frames until the connection ends.
func (c *Conn) read() {
	r := bufio.NewReaderSize(c.conn, 64<<10)
	for {
		h, payload, err := readFrame(r)
		if err == nil {
			c.heard.Store(true)
			err = c.deliver(h, payload)
		}
		if errors.Is(err, ErrProtocol) {
			c.end(err)
			return
		}
		if err != nil {
			c.end(fmt.Errorf("%w: %w", ErrClosed, err))
			return
		}
	}
}

func (c *Conn) deliver(h header, payload []byte) error {
	if h.program == programKeepalive {
		c.sign(h.procedure)
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch h.kind {
	case typeMessage:
		return c.message(h, payload)
	case typeReply:
		return c.reply(h, payload)
	case typeReplyFiles:
		if len(payload) < 4 || binary.BigEndian.Uint32(payload) != 0 {
			return fmt.Errorf("%w: a reply with files that were not asked for", ErrProtocol)
		}
		return c.reply(h, payload[4:])
	}
	return fmt.Errorf("%w: a frame of type %d", ErrProtocol, h.kind)
}

// reply hands an answer to its caller; the caller holds c.mu. One that nobody waits for
// any more is dropped.
func (c *Conn) reply(h header, payload []byte) error {
	p := c.waiting[h.serial]
	if p == nil {
		return nil
	}
	c.drop(h.serial)
	if h.program != p.op.program || h.procedure != p.op.procedure {
		return fmt.Errorf("%w: the reply to another call than %d", ErrProtocol, p.op.procedure)
	}
	if p.accept == nil {
		return nil
	}
	var err error
	switch h.status {
	case statusOK:
		err = p.accept(&reader{b: payload})
	case statusError:
		err = parseError(payload)
	default:
		err = fmt.Errorf("%w: a reply of status %d", ErrProtocol, h.status)
	}
	p.answer <- err
	return nil
}

// call makes a call and puts what it returns into results, in order.
func (c *Conn) call(ctx context.Context, op operation, a args, results ...result) error {
	return c.callFile(ctx, op, nil, a, results...)
}

// callFile is call with an open file, unless that is nil.
func (c *Conn) callFile(ctx context.Context, op operation, file *os.File, a args, results ...result) error {
	type answer struct{ b []byte }
	var got answer
	err := c.perform(ctx, &pending{op: op, file: file, answer: make(chan error, 1), accept: func(r *reader) error {
		got.b = r.b
		return nil
	}}, a)
	if err != nil {
		return err
	}
	r := &reader{b: got.b} // by the caller, not by the one reader of the connection
	for _, v := range results {
		v.get(r)
	}
	if err := r.end(); err != nil {
		return fmt.Errorf("%s: %w", op.name, err)
	}
	return nil
}

// exchange makes a call; accept gets its reply, in the reading goroutine.
func (c *Conn) exchange(ctx context.Context, op operation, a args, accept func(*reader) error) error {
	return c.perform(ctx, &pending{op: op, accept: accept, answer: make(chan error, 1)}, a)
}

// perform makes a call, in its time.
func (c *Conn) perform(ctx context.Context, p *pending, a args) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.opt.Call, fmt.Errorf("%w within %v", ErrSilent, c.opt.Call))
		defer cancel()
	}
	if err := c.ask(ctx, p, a); err != nil {
		return fmt.Errorf("%s: %w", p.op.name, err)
	}
	return nil
}

func (c *Conn) ask(ctx context.Context, p *pending, a args) error {
	var w writer
	for _, v := range a {
		v.put(&w)
	}
	if w.err != nil {
		return w.err
	}
	serial, err := c.expect(ctx, p)
	if err != nil {
		return err
	}
	h := header{program: p.op.program, procedure: p.op.procedure, kind: typeCall, serial: serial}
	if p.file != nil {
		h.kind, w.b = typeCallFiles, append([]byte{0, 0, 0, 1}, w.b...)
	}
	if err := c.send(ctx, h, w.b, p.file); err != nil {
		c.forget(serial)
		return err
	}
	select {
	case err := <-p.answer:
		return err
	case <-ctx.Done():
		c.giveUp(p)
		return ended(ctx)
	case <-c.done:
	}
	select { // the answer may have come just before the end
	case err := <-p.answer:
		return err
	default:
		return c.why()
	}
}

// ended is the error of a context that ended: ErrSilent where it was the call's own limit,
// not the caller's.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrSilent) {
		return snapshot.WithHint(cause, "look whether another job holds the domain (virsh domjobinfo), or restart libvirt's daemon: VMs run on")
	}
	return ctx.Err()
}

// expect reserves a serial and the place for its answer.
func (c *Conn) expect(ctx context.Context, p *pending) (uint32, error) {
	select {
	case c.calls <- struct{}{}:
	case <-ctx.Done():
		return 0, ended(ctx)
	case <-c.done:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	for c.serial++; c.serial == 0 || c.waiting[c.serial] != nil; c.serial++ { // it wraps around
	}
	c.waiting[c.serial] = p
	return c.serial, nil
}

// forget is for a call that was not sent.
func (c *Conn) forget(serial uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(serial)
}

// drop makes room for another call; the caller holds c.mu.
func (c *Conn) drop(serial uint32) {
	if c.waiting[serial] != nil {
		delete(c.waiting, serial)
		<-c.calls
	}
}

// giveUp leaves a call to its answer.
func (c *Conn) giveUp(p *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.accept = nil
}

// send writes one frame whole. One that is cut off by its context leaves the stream
// unusable, so that ends the connection.
func (c *Conn) send(ctx context.Context, h header, payload []byte, file *os.File) error {
	b, err := frame(h, payload)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if ctx.Err() != nil {
		return ended(ctx)
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		_ = c.conn.SetWriteDeadline(time.Unix(1, 0))
	})
	_, err = c.conn.Write(b)
	if err == nil && file != nil {
		err = sendFile(c.conn, file)
	}
	if !stop() && err == nil {
		<-cut
		err = c.conn.SetWriteDeadline(time.Time{}) // it was sent just in time
	}
	if err == nil {
		return nil
	}
	c.end(fmt.Errorf("%w: %w", ErrClosed, err))
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return c.why()
}

// sendFile passes an open file behind the frame that announced it.
func sendFile(conn net.Conn, file *os.File) error {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("pass a file: %w", errors.ErrUnsupported)
	}
	_, _, err := u.WriteMsgUnix([]byte{0}, unix.UnixRights(int(file.Fd())), nil)
	return err
}
