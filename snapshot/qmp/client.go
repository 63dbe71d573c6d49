package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// DefaultHandshake is how long Dial waits for the greeting. A monitor that is
// free greets within milliseconds; a host that swaps may take seconds.
const DefaultHandshake = 5 * time.Second

// DefaultCommand is how long a command may take. Most answer within milliseconds;
// those that change the block graph wait for the guest's requests that are on
// their way to a disk.
const DefaultCommand = 2 * time.Minute

// Options of a Client. The zero value is good.
type Options struct {
	Handshake time.Duration // 0: DefaultHandshake
	Command   time.Duration // of each command, whatever its context says; 0: DefaultCommand
	MaxLine   int           // bytes; 0: MaxLine
}

// Monitor is a road to a QEMU's monitor: a Client, or what passes commands on for it.
// All methods are safe for concurrent use.
type Monitor interface {
	// Execute and ExecuteFD are as those of Client.
	Execute(ctx context.Context, command string, args, result any) error
	ExecuteFD(ctx context.Context, command string, args, result any, file *os.File) error
	// Subscribe receives events: see Hub.
	Subscribe(names ...string) *Subscription
	// Done is closed when the QEMU behind it cannot be reached on this road any more.
	Done() <-chan struct{}
	// Version of the QEMU.
	Version() Version
	Close() error
}

var _ Monitor = (*Client)(nil)

// Client is a connection to a monitor. All methods are safe for concurrent use.
type Client struct {
	Hub
	conn    *net.UnixConn
	limit   time.Duration // of one command
	version Version
	read    sync.WaitGroup // the reader goroutine
	done    chan struct{}  // closed when the connection has ended

	writing sync.Mutex

	mu      sync.Mutex
	serial  uint64
	waiting map[string]chan message
	err     error // why the connection ended
}

// Dial connects to the monitor at a unix socket and negotiates. Errors:
// snapshot.ErrUnreachable when nobody listens, snapshot.ErrBusy when the monitor
// serves another client.
func Dial(ctx context.Context, path string, opt Options) (*Client, error) {
	if opt.Handshake <= 0 {
		opt.Handshake = DefaultHandshake
	}
	if opt.Command <= 0 {
		opt.Command = DefaultCommand
	}
	if opt.MaxLine <= 0 {
		opt.MaxLine = MaxLine
	}
	ctx, cancel := context.WithTimeout(ctx, opt.Handshake)
	defer cancel()
	conn, err := connect(ctx, path, "monitor")
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, limit: opt.Command, done: make(chan struct{}), waiting: map[string]chan message{}}
	lines := newLineReader(conn, opt.MaxLine)
	if err := c.greet(ctx, lines); err != nil {
		_ = conn.Close() // the error that matters is err
		return nil, greetError(path, err)
	}
	c.read.Go(func() { c.run(lines) })
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close() // the error that matters is err
		return nil, greetError(path, err)
	}
	return c, nil
}

func (c *Client) greet(ctx context.Context, lines *lineReader) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := lines.line()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	c.version, err = parseGreeting(line)
	return err
}

func greetError(path string, err error) error {
	switch {
	case timedOut(err):
		return snapshot.WithHint(fmt.Errorf("connect to monitor %s: no greeting: another client holds the monitor: %w", path, snapshot.ErrBusy),
			"close the other client of this QMP socket, or give lull a QMP socket of its own")
	case errors.Is(err, ErrProtocol):
		return snapshot.WithHint(fmt.Errorf("connect to monitor %s: %w: %w", path, snapshot.ErrUnreachable, err),
			"check that the path is that of a QMP socket, not of a human monitor or of a guest agent")
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("connect to monitor %s: %w", path, err)
	}
	return fmt.Errorf("connect to monitor %s: %w: %w", path, snapshot.ErrUnreachable, err)
}

// Version of the QEMU behind the monitor, from its greeting.
func (c *Client) Version() Version { return c.version }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// PeerPID is the process that listens on the socket, by the kernel's word. 0
// when it is in another PID namespace.
func (c *Client) PeerPID() (int, error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("look at monitor's peer: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("look at monitor's peer: %w", err)
	}
	return int(cred.Pid), nil
}

// Close ends the connection and waits for the reader goroutine.
func (c *Client) Close() error {
	c.end(ErrClosed)
	c.read.Wait()
	return nil
}

// run reads until the connection ends.
func (c *Client) run(lines *lineReader) {
	for {
		line, err := lines.line()
		if err != nil {
			c.end(fmt.Errorf("%w: %w", ErrClosed, err))
			return
		}
		if len(line) == 0 {
			continue
		}
		m, err := parseMessage(line)
		if err != nil {
			c.end(err)
			return
		}
		c.deliver(m)
	}
}

func (c *Client) deliver(m message) {
	if m.Event != nil {
		c.Publish(*m.Event)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer := c.waiting[m.ID]; answer != nil {
		delete(c.waiting, m.ID)
		answer <- m // has room for the one answer it gets
	}
}

// end closes the connection once and tells everyone who waits.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	_ = c.conn.Close() // nothing is buffered that could be lost
	close(c.done)
}

func (c *Client) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Execute runs a command and stores what it returns in result, unless that is
// nil. args is marshalled as the command's arguments; nil for none. Errors:
// *Error when QEMU refuses, ErrClosed when it went away, ErrSilent when it is
// there but does not answer in time, the context's.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	return c.execute(ctx, command, args, result, nil)
}

// ExecuteFD is Execute with an open file passed along with the command, as
// getfd and add-fd want it. The caller still closes its file.
func (c *Client) ExecuteFD(ctx context.Context, command string, args, result any, file *os.File) error {
	return c.execute(ctx, command, args, result, file)
}

func (c *Client) execute(ctx context.Context, command string, args, result any, file *os.File) error {
	id, answer, err := c.expect()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer c.forget(id)
	ctx, cancel := context.WithTimeoutCause(ctx, c.limit, silent(c.limit))
	defer cancel()
	if err := c.send(ctx, id, command, args, file); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case m := <-answer:
		return m.into(command, result)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", command, ended(ctx))
	case <-c.done:
	}
	select { // the answer may have come just before the end
	case m := <-answer:
		return m.into(command, result)
	default:
		return fmt.Errorf("%s: %w", command, c.why())
	}
}

// ended is the error of a context that ended: ErrSilent where it was the command's
// own limit, not the caller's.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrSilent) {
		return cause
	}
	return ctx.Err()
}

func (m message) into(command string, result any) error {
	if m.Error != nil {
		m.Error.Command = command
		return m.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("%s: %w: %w", command, ErrProtocol, err)
	}
	return nil
}

// expect reserves an id and the place for its answer.
func (c *Client) expect() (string, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return "", nil, c.err
	}
	c.serial++
	id := fmt.Sprintf("lull-%d", c.serial)
	answer := make(chan message, 1)
	c.waiting[id] = answer
	return id, answer, nil
}

func (c *Client) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// request is a command as it goes over the wire, to monitors and agents.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        string `json:"id,omitempty"`
}

// send writes one command whole. A command that is cut off by its context leaves
// the stream unusable, so that ends the connection.
func (c *Client) send(ctx context.Context, id, command string, args any, file *os.File) error {
	b, err := json.Marshal(request{Execute: command, Arguments: args, ID: id})
	if err != nil {
		return fmt.Errorf("marshal arguments: %w", err)
	}
	var oob []byte
	if file != nil {
		oob = unix.UnixRights(int(file.Fd()))
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
	err = writeAll(c.conn, append(b, '\n'), oob)
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

// writeAll writes b, with oob at its first byte.
func writeAll(conn *net.UnixConn, b, oob []byte) error {
	if oob != nil {
		n, _, err := conn.WriteMsgUnix(b, oob, nil)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	for len(b) > 0 {
		n, err := conn.Write(b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
