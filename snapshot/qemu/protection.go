package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// A QEMU before 8.1 that fails at a background snapshot leaves its memory protected: the
// next write of the guest, or of the main loop, waits in the kernel, for ever. What
// protects it is an open file of that process, a userfaultfd. Through a copy of that file
// another process can take the protection back, and all who wait go on. That
// asks for the right to trace the process, as root has it.

// ioctls of linux/userfaultfd.h.
const (
	uffdioUnregister = 0x8010aa01
	uffdioWake       = 0x8010aa02
)

// uffdioRange is the kernel's struct of that name.
type uffdioRange struct{ start, length uint64 }

const (
	// userfaultfd is the kernel's name for such a file; no other's can be the same, as it
	// does not begin with a slash.
	userfaultfd = "anon_inode:[userfaultfd]"
	// maxProtections is how many a process may have that is helped. QEMU has one: the rest is
	// of one that a guest has taken over.
	maxProtections = 16
)

// protections are the open files of a process that may protect its memory.
func protections(pid int) ([]int, error) {
	if pid <= 0 {
		return nil, errors.New("look for protected memory: the process is not known")
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for protected memory: %w", err)
	}
	var list []int
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		fd, numErr := strconv.Atoi(e.Name())
		if err == nil && numErr == nil && link == userfaultfd && len(list) < maxProtections {
			list = append(list, fd)
		}
	}
	return list, nil
}

// grip is a hold of a process: whoever has its PID one day, this is of no other.
type grip struct{ pid, fd int }

// gripOf takes hold of a process. One that is the instance after that was it before, too.
func gripOf(instance string) (grip, error) {
	pid := instancePID(instance)
	if pid == 0 {
		return grip{}, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return grip{}, fmt.Errorf("open process %d: %w", pid, err)
	}
	if !living(instance) {
		return grip{}, errors.Join(unix.ESRCH, unix.Close(fd))
	}
	return grip{pid: pid, fd: fd}, nil
}

func (p grip) release() { _ = unix.Close(p.fd) }

// takeFile copies an open file of the process.
func (p grip) takeFile(fd int) (int, error) {
	own, err := unix.PidfdGetfd(p.fd, fd, 0)
	if err != nil {
		return -1, fmt.Errorf("copy an open file of process %d: %w", p.pid, err)
	}
	return own, nil
}

// unprotectable fails where unprotect would.
func unprotectable(instance string) error {
	p, err := gripOf(instance)
	if err != nil {
		return err
	}
	defer p.release()
	left, err := protections(p.pid)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return errors.New("a background snapshot of this QEMU has failed before, or it is migrating in")
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	if err != nil || len(entries) == 0 {
		return errors.Join(errors.New("its open files cannot be seen"), err)
	}
	fd, err := strconv.Atoi(entries[0].Name())
	if err != nil {
		return err
	}
	own, err := p.takeFile(fd)
	if err != nil {
		return err
	}
	return unix.Close(own)
}

// unprotect takes back the protection of a process's memory against writes. There being
// none is no error, nor that the process is gone. seen: there was what may protect it.
func unprotect(instance string) (seen bool, err error) {
	p, err := gripOf(instance)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer p.release()
	left, err := protections(p.pid)
	if err != nil || len(left) == 0 {
		return false, err
	}
	ranges, err := writable(p.pid)
	if err != nil || !living(instance) { // else it was another's memory that was looked at
		return true, err
	}
	return true, p.unprotect(left, ranges)
}

func (p grip) unprotect(left []int, ranges []uffdioRange) error {
	var errs []error
	for _, fd := range left {
		own, err := p.takeFile(fd)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range ranges {
			// Memory that is of no such kind is refused, and what was not protected stays so.
			// The kernel does not wake those who wait for the end of a protection by itself.
			for _, request := range []uintptr{uffdioUnregister, uffdioWake} {
				_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(own), request, uintptr(unsafe.Pointer(&r)))
			}
		}
		errs = append(errs, unix.Close(own))
	}
	return errors.Join(errs...)
}

// unprotecting does that until stop, and once more then, for a VM that is let go on: whatever
// protects its memory is of no use any more, and no migration is under way at stop that could
// protect it again. It ends with the marker, if that is given: where another process has done
// all this, the next run may protect the memory already.
func (h *Host) unprotecting(p snapshot.Plan, k *marker) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // stop waits for it
		defer close(ended)
		tick := time.NewTicker(unprotectTick)
		defer tick.Stop()
		said := false
		for last := false; ; {
			if k != nil && k.gone(context.Background()) { // it has a limit of its own
				return
			}
			seen, err := unprotect(p.Instance)
			if err != nil && !said && (seen || older(mainVersion(p.Hardware.Version), "8.1")) { // a newer one needs no help
				h.opt.Log.Warn("the memory of the VM may be protected", "vm", p.VM, "error", err)
				said = true
			}
			if last {
				return
			}
			select {
			case <-tick.C:
			case <-done:
				last = true
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// unprotectTick is how long a VM waits at most for memory that is protected.
const unprotectTick = 100 * time.Millisecond

// writable are the parts of a process's memory that it may write to.
func writable(pid int) ([]uffdioRange, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []uffdioRange
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r uffdioRange
		var end uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &r.start, &end, &mode); err == nil && strings.HasPrefix(mode, "rw") {
			r.length = end - r.start
			list = append(list, r)
		}
	}
	return list, lines.Err()
}
