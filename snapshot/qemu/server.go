package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/nbd"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// QEMU has one NBD server for all its users. It is ours when it listens on our
// socket: the socket is made by lull and passed to QEMU as an open file, so that
// QEMU needs no right to any path, and its path stays for the run, so that any
// process can find out whether a server is left behind there.

// socketPath is where the frozen disks of a run are served.
func (h *Host) socketPath(p snapshot.Plan) string {
	return filepath.Join(h.opt.RuntimeDir, runName(p.VM, p.Run)+".nbd")
}

// serve starts QEMU's NBD server for a run.
func (h *Host) serve(ctx context.Context, m *monitor, p snapshot.Plan) error {
	path := h.socketPath(p)
	if err := privateDir(h.opt.RuntimeDir); err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return fmt.Errorf("listen for frozen disks: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close() // QEMU has its own copy
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("listen for frozen disks: %w", err)
	}
	file, err := l.File()
	if err != nil {
		return fmt.Errorf("listen for frozen disks: %w", err)
	}
	defer file.Close()
	name := runName(p.VM, p.Run)
	addr := args{"type": "fd", "data": args{"str": name}}
	err = m.ExecuteFD(ctx, "getfd", args{"fdname": name}, nil, file)
	if qmp.HasClass(err, qmp.ClassCommandNotFound) { // a storage daemon takes no files
		addr = args{"type": "unix", "data": args{"path": path}}
		err = os.Remove(path)
	}
	if err != nil {
		return err
	}
	err = m.Execute(ctx, "nbd-server-start", args{"addr": addr}, nil)
	if err != nil {
		err = errors.Join(serverRefused(err), m.dropSocket(ctx, p), removeSocket(path))
	}
	return err
}

// dropSocket makes QEMU close our socket, unless its server has it.
func (m *monitor) dropSocket(ctx context.Context, p snapshot.Plan) error {
	return m.ask(ctx, "closefd", args{"fdname": runName(p.VM, p.Run)}, nil)
}

func serverRefused(err error) error {
	var refused *qmp.Error
	if errors.As(err, &refused) && strings.Contains(refused.Desc, "already running") {
		return snapshot.WithHint(fmt.Errorf("%w: %w", snapshot.ErrBusy, err),
			"end the other tool that uses QEMU's NBD server, or send nbd-server-stop to the monitor")
	}
	return err
}

// privateDir makes the folder for sockets, or makes sure that it is ours alone:
// who can connect to a socket in it can read the guest's disks.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create folder for sockets: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("folder %s for sockets belongs to someone else or can be written by others: %w", dir, fs.ErrPermission)
	}
	return nil
}

// export serves a frozen node, and the record of what changed on it, where there is
// one.
func (m *monitor) export(ctx context.Context, d snapshot.DiskPlan) error {
	a := args{"type": "nbd", "id": d.Export, "node-name": d.Node, "name": d.Export, "writable": false}
	if d.Track.Since != "" {
		a["bitmaps"] = []string{d.Track.Since}
		if err := m.Execute(ctx, "block-export-add", a, nil); !refused(err) {
			return err
		}
		delete(a, "bitmaps") // then all is read
	}
	return m.Execute(ctx, "block-export-add", a, nil)
}

// unserve ends the exports of a run and the server, if it is ours. It is right
// in any state and leaves no socket.
func (h *Host) unserve(ctx context.Context, m *monitor, p snapshot.Plan) error {
	if err := m.endExports(ctx, p); err != nil {
		return fmt.Errorf("end exports: %w", err)
	}
	if err := m.dropSocket(ctx, p); err != nil {
		return err
	}
	path := h.socketPath(p)
	err := nbd.Settle(ctx, "unix", path)
	if err == nil { // somebody listens: QEMU, for us
		if err := m.Execute(ctx, "nbd-server-stop", nil, nil); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("look for an NBD server of ours: %w", err)
	}
	return removeSocket(path)
}

func removeSocket(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}

// endExports deletes the exports of a run and waits until they are gone. All
// readers of this process are closed by then; one of a process that died is cut
// off.
func (m *monitor) endExports(ctx context.Context, p snapshot.Plan) error {
	ours := map[string]bool{}
	for _, d := range p.Disks {
		ours[d.Export] = d.Export != ""
	}
	ordered := map[string]bool{}
	return m.await(ctx, func() (bool, error) {
		exports, err := m.exports(ctx)
		if err != nil {
			return false, err
		}
		left := 0
		for _, e := range exports {
			if !ours[e.ID] {
				continue
			}
			left++
			if !ordered[e.ID] {
				ordered[e.ID] = true
				if err := m.Execute(ctx, "block-export-del", args{"id": e.ID, "mode": "hard"}, nil); err != nil {
					return false, err
				}
			}
		}
		return left == 0, nil
	}, "BLOCK_EXPORT_DELETED")
}
