package rpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"syscall"

	"github.com/lull-backup/lull/snapshot"
)

// Version is libvirt's: 9.0.0 is 9000000.
type Version uint64

func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000)
}

// MinVersion is the oldest libvirt that has all that lull asks for: the timeout of the
// guest agent (5.10) and blockdev with incremental backup (7.2).
const MinVersion Version = 7_002_000

// Ways in which a daemon can want to be told who asks.
const (
	authNone   = 0
	authSASL   = 1
	authPolkit = 2
)

// Dial connects to the daemon of an address and opens its driver. Errors:
// snapshot.ErrUnreachable when nobody listens or lets us in, ErrUnsupported for a version
// that is too old or a way to log in that lull does not have.
func Dial(ctx context.Context, a Address, opt Options) (*Conn, error) {
	opt = opt.withDefaults()
	ctx, cancel := context.WithTimeoutCause(ctx, opt.Handshake, fmt.Errorf("%w within %v", ErrSilent, opt.Handshake))
	defer cancel()
	socket, err := a.socket()
	if err != nil {
		return nil, fmt.Errorf("connect to libvirt: %w", err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, dialError(socket, err)
	}
	c := start(conn, opt)
	if err := c.open(ctx, a, opt.ReadOnly); err != nil {
		_ = c.Close() // the error that matters is err
		return nil, fmt.Errorf("connect to libvirt at %s: %w", socket, err)
	}
	return c, nil
}

// dialError says what it means that a socket cannot be connected to.
func dialError(socket string, err error) error {
	wrap := func(what, next string) error {
		return snapshot.WithHint(fmt.Errorf("connect to libvirt at %s: %w: %s", socket, snapshot.ErrUnreachable, what), next)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return wrap("no such socket", "install and start libvirt's daemon (systemctl enable --now libvirtd), or give the socket in the URI: qemu+unix:///system?socket=PATH")
	case errors.Is(err, syscall.ECONNREFUSED):
		return wrap("nobody listens", "start libvirt's daemon: systemctl start libvirtd, or virtqemud.socket")
	case errors.Is(err, fs.ErrPermission):
		return wrap("permission denied", "run lull as root, or as a user of the group libvirt")
	}
	return fmt.Errorf("connect to libvirt at %s: %w: %w", socket, snapshot.ErrUnreachable, err)
}

// open makes a connection useful.
func (c *Conn) open(ctx context.Context, a Address, readOnly bool) error {
	if err := c.authenticate(ctx); err != nil {
		return err
	}
	const programKeepaliveFeature = 10 // its question makes the daemon send requests, too
	var supported i32
	// CONNECT_SUPPORTS_FEATURE
	if err := c.call(ctx, remote(60, "ask for keep-alive"), args{i32(programKeepaliveFeature)}, &supported); err != nil {
		return err
	}
	flags := u32(0)
	if readOnly {
		flags = 1
	}
	// CONNECT_OPEN
	if err := c.call(ctx, remote(1, "open "+a.Driver), args{opt(a.Driver), flags}); err != nil {
		return fmt.Errorf("%w: %w", snapshot.ErrUnreachable, err)
	}
	var v u64
	// CONNECT_GET_LIB_VERSION
	if err := c.call(ctx, remote(157, "ask for libvirt's version"), nil, &v); err != nil {
		return err
	}
	c.version = Version(v)
	if c.version < MinVersion {
		return snapshot.WithHint(fmt.Errorf("libvirt %s is too old: %w", c.version, snapshot.ErrUnsupported),
			fmt.Sprintf("update libvirt to %s or newer, or configure the VMs by their QMP sockets", MinVersion))
	}
	return nil
}

// authenticate gets past the daemon's door. Without asking for the ways first, every
// other call is refused.
func (c *Conn) authenticate(ctx context.Context) error {
	var ways []int32
	// AUTH_LIST
	err := c.exchange(ctx, remote(66, "ask how to log in"), nil, func(r *reader) error {
		ways = list(r, 4, func(r *reader) int32 { return int32(r.u32()) })
		return r.end()
	})
	switch {
	case err != nil:
		return err
	case len(ways) == 0 || slices.Contains(ways, authNone):
		return nil
	case slices.Contains(ways, authPolkit):
		return c.polkit(ctx)
	case slices.Contains(ways, authSASL):
		return snapshot.WithHint(fmt.Errorf("libvirt's socket wants a password (SASL): %w", snapshot.ErrUnsupported),
			"run lull as root on this host and set auth_unix_rw to polkit or none in libvirtd.conf")
	}
	return fmt.Errorf("libvirt's socket wants a way to log in that lull does not have (%v): %w", ways, snapshot.ErrUnsupported)
}

// polkit lets the daemon ask polkit whether this process may.
func (c *Conn) polkit(ctx context.Context) error {
	var complete i32
	// AUTH_POLKIT
	err := c.call(ctx, remote(70, "log in by polkit"), nil, &complete)
	var refused *Error
	if errors.As(err, &refused) {
		return snapshot.WithHint(fmt.Errorf("%w: %w", snapshot.ErrUnreachable, err),
			"run lull as root, or as a user of the group libvirt")
	}
	return err
}
