package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lull-backup/lull/snapshot"
)

// Options of Dial; the zero value is ready for use.
type Options struct {
	// Contexts are meta contexts to ask for beside ContextAllocation, such as
	// "qemu:dirty-bitmap:NAME". One that the server does not grant is no error;
	// see Client.HasContext.
	Contexts []string

	// Connections to open where the server allows several readers to agree
	// (FlagCanMultiConn); 0 is 2, 1 is one, 16 the most. More than one helps
	// when copying the bytes out of a socket keeps a core busy.
	Connections int
}

const (
	defaultConnections = 2
	maxConnections     = 16
)

// Client reads one export. It is a snapshot.Source; all methods are safe for
// concurrent use.
type Client struct {
	export string
	size   int64 // the export's own
	conns  []*conn
	turn   atomic.Uint64
}

var _ snapshot.Source = (*Client)(nil)

// Dial connects to a server, "unix" or "tcp", and opens an export for reading.
// ctx bounds connecting and negotiating; it has no effect on the client later.
// Errors: ErrNoExport, ErrProtocol, snapshot.ErrUnsupported.
func Dial(ctx context.Context, network, address, export string, o Options) (*Client, error) {
	dial := func() (*conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return newConn(ctx, nc, export, o.names())
	}
	c, err := open(dial, export, o)
	if err != nil {
		return nil, fmt.Errorf("open NBD export %q at %s: %w", export, address, err)
	}
	return c, nil
}

func (o Options) names() []string {
	names := append([]string{ContextAllocation}, o.Contexts...)
	slices.Sort(names)
	return slices.Compact(names)
}

func open(dial func() (*conn, error), export string, o Options) (*Client, error) {
	if len(export) > maxString {
		return nil, errors.New("export name is too long")
	}
	for _, name := range o.Contexts {
		if len(name) > maxString {
			return nil, errors.New("meta context name is too long")
		}
	}
	first, err := dial()
	if err != nil {
		return nil, err
	}
	c := &Client{export: export, size: first.size, conns: []*conn{first}}
	if first.flags&FlagCanMultiConn == 0 {
		return c, nil
	}
	want := o.Connections
	if want == 0 {
		want = defaultConnections
	}
	for len(c.conns) < min(want, maxConnections) {
		more, err := dial()
		if err == nil && !more.agrees(first) {
			more.close()
			err = violation("two connections to one export differ")
		}
		if err != nil {
			c.Close()
			return nil, err
		}
		c.conns = append(c.conns, more)
	}
	return c, nil
}

func (c *conn) agrees(other *conn) bool {
	if c.size != other.size || len(c.contexts) != len(other.contexts) {
		return false
	}
	for name := range other.contexts {
		if _, ok := c.contexts[name]; !ok {
			return false
		}
	}
	return true
}

// Size is the export's size in bytes, rounded up to 512 as QEMU does for its
// guests; what lies between reads as zeros.
func (c *Client) Size() int64 { return roundUp(c.size, sectorSize) }

// Flags are the transmission flags of the export.
func (c *Client) Flags() uint16 { return c.conns[0].flags }

// HasContext tells whether the server granted a meta context.
func (c *Client) HasContext(name string) bool {
	_, ok := c.conns[0].contexts[name]
	return ok
}

// ReadAt fills p from off. When ctx ends it returns at once and p is not
// touched any more, although its content is undefined then.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.read(ctx, p, off); err != nil {
		return fmt.Errorf("read %d bytes at %d of NBD export %q: %w", len(p), off, c.export, err)
	}
	return nil
}

func (c *Client) read(ctx context.Context, p []byte, off int64) error {
	if err := c.check(off, int64(len(p))); err != nil {
		return err
	}
	if end := off + int64(len(p)); end > c.size {
		keep := max(0, c.size-off)
		clear(p[keep:])
		p = p[:keep]
	}
	for len(p) > 0 {
		cn := c.pick()
		n, err := cn.readSome(ctx, p, off, c.size)
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// readSome reads a first part of p in one request.
func (c *conn) readSome(ctx context.Context, p []byte, off, size int64) (int, error) {
	end := min(off+int64(len(p)), off/c.minBlock*c.minBlock+c.maxBlock)
	if off%c.minBlock == 0 && (end%c.minBlock == 0 || end == size) {
		p = p[:end-off]
		return len(p), c.do(ctx, &call{cmd: cmdRead, off: off, length: end - off, p: p})
	}
	// The server only takes whole blocks: read the blocks around p.
	start := off / c.minBlock * c.minBlock
	bounce := make([]byte, min(roundUp(end, c.minBlock), size)-start)
	if err := c.do(ctx, &call{cmd: cmdRead, off: start, length: int64(len(bounce)), p: bounce}); err != nil {
		return 0, err
	}
	return copy(p, bounce[off-start:]), nil
}

// Close disconnects cleanly and waits until the server has let go of the
// export, five seconds at most. Calls in flight may fail with ErrClosed. Safe to
// call twice.
func (c *Client) Close() error {
	var all sync.WaitGroup
	for _, cn := range c.conns {
		all.Go(cn.close)
	}
	all.Wait()
	return nil
}

func (c *Client) pick() *conn {
	return c.conns[c.turn.Add(1)%uint64(len(c.conns))]
}

func (c *Client) check(off, length int64) error {
	if off < 0 || length < 0 || off > c.Size() || length > c.Size()-off {
		return fmt.Errorf("%d bytes at %d of a disk of %d: %w", length, off, c.Size(), io.ErrUnexpectedEOF)
	}
	return nil
}
