package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// A saved state fits a QEMU that is no older, that has the machine and the CPU, and
// that runs the guest by the same accelerator. boot.sh looks at the QEMU that it
// starts; this is the same of the host that restores, before anything is written.

// FitsState looks whether the QEMU of this host would take a saved state. That there
// is none is no error: the files may be for another host.
func (Definer) FitsState(ctx context.Context, hw snapshot.Hardware) error {
	path, err := exec.LookPath(program(hw))
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = fits(ctx, path, hw)
	}
	if err != nil {
		return snapshot.WithHint(fmt.Errorf("the saved memory does not fit %s here: %w", program(hw), err),
			"restore on a host where it does, or give --cold to leave the memory away: the VM starts from its disks")
	}
	return nil
}

func fits(ctx context.Context, qemu string, hw snapshot.Hardware) error {
	said, err := ask(ctx, qemu, "--version")
	if err != nil {
		return err
	}
	version := regexp.MustCompile(`version ([0-9]+\.[0-9]+)`).FindStringSubmatch(said)
	if version == nil {
		return fmt.Errorf("%s does not say its version: %w", qemu, snapshot.ErrUnsupported)
	}
	if older(version[1], mainVersion(hw.Version)) {
		return fmt.Errorf("the memory was saved by QEMU %s, and this is QEMU %s: %w", mainVersion(hw.Version), version[1], snapshot.ErrUnsupported)
	}
	for what, name := range map[string]string{"machine": hw.Machine, "cpu": hw.CPU} {
		list, err := ask(ctx, qemu, "-"+what, "help")
		if err != nil {
			return err
		}
		if !slices.Contains(strings.Fields(list), name) {
			return fmt.Errorf("it does not have the %s %s: %w", what, name, snapshot.ErrUnsupported)
		}
	}
	if hw.Accelerator == "kvm" && unix.Access("/dev/kvm", unix.W_OK) != nil {
		return fmt.Errorf("the guest ran under KVM, which cannot be used here: %w", snapshot.ErrUnsupported)
	}
	if hw.HostCPU != "" && hw.HostCPU != hostCPU() {
		return fmt.Errorf("the guest had its host's processor, %s, and this is %s: %w", hw.HostCPU, hostCPU(), snapshot.ErrUnsupported)
	}
	return nil
}

func ask(ctx context.Context, qemu string, arg ...string) (string, error) {
	out, err := exec.CommandContext(ctx, qemu, arg...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", qemu, strings.Join(arg, " "), err)
	}
	return string(out), nil
}

// older compares the first two numbers of versions. What is no number is old.
func older(a, b string) bool {
	number := func(s string) (major, minor int) {
		x, y, _ := strings.Cut(s, ".")
		major, _ = strconv.Atoi(x)
		minor, _ = strconv.Atoi(y)
		return major, minor
	}
	majorA, minorA := number(a)
	majorB, minorB := number(b)
	return majorA < majorB || majorA == majorB && minorA < minorB
}

// hostCPU is this host's processor; empty where the kernel does not name it.
func hostCPU() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(info)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// recreatable fails where boot.sh could not start the VM with the very devices that
// its state is of. Of a VM that was changed since its start the command line tells too
// little.
func recreatable(p snapshot.Plan) error {
	hw := p.Hardware
	if len(hw.CommandLine) == 0 || hw.Machine == "" || hw.CPU == "" {
		return fmt.Errorf("QEMU's command line, machine or CPU cannot be seen, so nobody could start it the same: %w", snapshot.ErrUnsupported)
	}
	for _, x := range p.Excluded {
		if x.Reason == removable {
			return snapshot.WithHint(fmt.Errorf("the medium in the drive %s would be missing: %w", x.Disk.Name, snapshot.ErrUnsupported), "eject it")
		}
	}
	vm := snapshot.Restored{Name: p.VM, Hardware: hw}
	for _, d := range p.Disks {
		vm.Disks = append(vm.Disks, snapshot.RestoredDisk{Name: d.Name, Path: d.Path, Format: d.Format})
	}
	for _, f := range p.Files {
		vm.Files = append(vm.Files, snapshot.RestoredFile{File: f, Now: f.Path})
	}
	if lost := rewrite("/", vm).lost; len(lost) > 0 {
		return fmt.Errorf("boot.sh could not start it the same: %s: %w", strings.Join(lost, "; "), snapshot.ErrUnsupported)
	}
	return unchanged(hw)
}

// unchanged compares the devices that have ids with those of the command line.
func unchanged(hw snapshot.Hardware) error {
	atStart := map[string]bool{}
	for _, o := range parseOptions(hw.CommandLine) {
		if o.name == "device" {
			atStart[parseKeyval(o.value, true).get("id")] = true
		}
	}
	for _, d := range hw.Devices {
		if d.ID != "" && !atStart[d.ID] {
			return snapshot.WithHint(fmt.Errorf("the device %s (%s) was added to the running VM: %w", d.ID, d.Driver, snapshot.ErrUnsupported),
				"put it on the command line and start the VM anew")
		}
		delete(atStart, d.ID)
	}
	delete(atStart, "")
	for id := range atStart {
		return snapshot.WithHint(fmt.Errorf("the device %s was taken from the running VM: %w", id, snapshot.ErrUnsupported),
			"take it from the command line and start the VM anew")
	}
	return nil
}
