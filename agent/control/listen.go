package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// MaxPath bounds the path of a socket, in bytes: what fits into sun_path of
// Linux with its final zero.
const MaxPath = 107

// Listener is a socket that no other agent serves.
type Listener struct {
	path   string
	lock   *os.File
	socket *net.UnixListener
}

// Listen makes the socket, in a folder that it makes where it is missing. What a
// dead agent left there is replaced. ErrRunning: a live one serves it.
func Listen(path string) (*Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (*Listener, error) {
	if len(path) > MaxPath {
		return nil, &hinted{fmt.Errorf("path of %d bytes, a socket has at most %d", len(path), MaxPath), "set a shorter socket in the configuration"}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	lock, err := own(path)
	if err != nil {
		return nil, err
	}
	socket, err := bind(path)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Listener{path: path, lock: lock, socket: socket}, nil
}

// own locks the socket's path for the life of this process.
func own(path string) (*os.File, error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = &hinted{ErrRunning, "see lull status; stop that one first, or set another socket"}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// bind makes the socket under another name and moves it into place, so that it
// never has a mode but its own.
func bind(path string) (*net.UnixListener, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode()&fs.ModeSocket == 0:
		return nil, &hinted{fmt.Errorf("%w and is no socket", fs.ErrExist), "remove it, or set another socket"}
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return bindIn(dir, path)
}

func bindIn(dir, path string) (*net.UnixListener, error) {
	// The new name may be longer than the socket's own: go by the open folder.
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	at := fmt.Sprintf("/proc/self/fd/%d/s", d.Fd())
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, err
	}
	socket.SetUnlinkOnClose(false) // Close removes the path that it has by then
	if err := os.Chmod(at, 0o600); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	if err := os.Rename(filepath.Join(dir, "s"), path); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return socket, nil
}

// Close removes the socket and lets another agent in. Serve does so itself.
func (l *Listener) Close() error {
	err := os.Remove(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if cerr := l.socket.Close(); !errors.Is(cerr, net.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return errors.Join(err, l.lock.Close())
}

// guarded accepts only those that may ask.
type guarded struct {
	*net.UnixListener
	allowed func(uid uint32) bool
	refused func(uid uint32)
}

// Accept closes the connections of other users without a word.
func (g guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peer(c)
		if err == nil && g.allowed(uid) {
			return c, nil
		}
		if err == nil {
			g.refused(uid)
		}
		c.Close()
	}
}

// peer is the user at the other end, by the kernel's word.
func peer(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// owners are root and the user of this process.
func owners(uid uint32) bool { return uid == 0 || int64(uid) == int64(os.Geteuid()) }
