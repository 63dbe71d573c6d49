package libvirt

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// What lull asks for beyond rpc.MinVersion, below which no connection is made.
const (
	// TestedQEMU is the oldest QEMU that lull is tested with; older ones may lack commands.
	TestedQEMU rpc.Version = 7_002_000
	// PassesFiles is the oldest libvirt that passes an open file on to QEMU's monitor: what
	// saves a memory, and serves disks that lull cannot read itself.
	PassesFiles rpc.Version = 8_002_000
)

// Versions of the daemon and of its QEMU.
func (h *Host) Versions(ctx context.Context) (daemon, qemu rpc.Version, err error) {
	err = h.link.ask(ctx, func(c *rpc.Conn) (err error) {
		daemon = c.Version()
		qemu, err = c.HypervisorVersion(ctx)
		return err
	})
	return daemon, qemu, err
}

// Lacks says what of all that lull can do it cannot do with such a daemon and QEMU, on this
// host, each with what to do about it.
func (h *Host) Lacks(daemon, qemu rpc.Version) (lacks []error) {
	if qemu < TestedQEMU {
		lacks = append(lacks, snapshot.WithHint(fmt.Errorf("QEMU %s is older than %s, the oldest that lull is tested with: %w", qemu, TestedQEMU, snapshot.ErrUnsupported),
			"update QEMU"))
	}
	if daemon < PassesFiles {
		lacks = append(lacks, snapshot.WithHint(fmt.Errorf("libvirt %s passes no files on: memory cannot be saved, and only disks that are raw or qcow2 files can be read: %w", daemon, snapshot.ErrUnsupported),
			fmt.Sprintf("update libvirt to %s or newer", PassesFiles)))
	}
	if _, err := exec.LookPath(cmp.Or(h.opt.QemuImg, "qemu-img")); err != nil {
		lacks = append(lacks, snapshot.WithHint(fmt.Errorf("deltas of domains that went off cannot be merged: %w", err), "install qemu-utils"))
	}
	if os.Geteuid() != 0 {
		lacks = append(lacks, snapshot.WithHint(fmt.Errorf("lull does not run as root: it can back up domains whose images this user may read and write, and whose QEMU it may look at: %w", os.ErrPermission),
			"run lull as root, unless these are the domains of this user's own session"))
	}
	return lacks
}
