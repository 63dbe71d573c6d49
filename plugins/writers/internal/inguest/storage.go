package inguest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// storageScript prints the mounts, then of those without a device number of their own
// what their source leads to, then the block devices: number, folder in sysfs, the
// devices that each is made of, and the file below a loop device.
const storageScript = `
cat /proc/self/mountinfo || exit 1
while read -r id parent dev root folder rest; do
    rest=${rest##* - } rest=${rest#* }
    source=${rest%% *}
    case $dev-$source in 0:*-/dev/*) echo "link $source $(readlink -f "$source")" ;; esac
done </proc/self/mountinfo
for d in /sys/class/block/*; do
    cd -P "$d" 2>/dev/null && read -r number <dev || continue
    parts=
    for s in slaves/*; do [ -e "$s" ] && parts="$parts ${s##*/}"; done
    echo "block $number $PWD$parts"
    [ -r loop/backing_file ] && read -r file <loop/backing_file && echo "loop $number $file"
done
exit 0`

// Bounds of what a guest may have.
const (
	maxMounts  = 10000
	maxDevices = 10000
	maxSteps   = 10000 // from a file to its disks
)

// Storage is where the files of a guest lie, by its own word.
type Storage struct {
	mounts  []mount           // in the order of mounting
	links   map[string]string // source of a mount to a device file
	devices map[string]device // by number, such as 254:0
	byName  map[string]string // name such as vda1 to number
}

type mount struct{ number, folder, kind, source string }

type device struct {
	folder string   // in sysfs
	parts  []string // names of devices that it is made of
	file   string   // below a loop device
}

// LookAtStorage asks the guest.
func (s Shell) LookAtStorage(ctx context.Context) (Storage, error) {
	out, err := s.Run(ctx, storageScript)
	if err != nil {
		return Storage{}, err
	}
	st, err := ParseStorage(out)
	return st, s.Fail(err)
}

// ParseStorage reads what the script prints.
func ParseStorage(out []byte) (Storage, error) {
	s := Storage{links: map[string]string{}, devices: map[string]device{}, byName: map[string]string{}}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		if err := s.line(strings.Split(lines.Text(), " ")); err != nil {
			return Storage{}, fmt.Errorf("read the guest's mounts: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return Storage{}, fmt.Errorf("read the guest's mounts: %w", err)
	}
	if len(s.mounts) == 0 {
		return Storage{}, errors.New("read the guest's mounts: there are none")
	}
	return s, nil
}

func (s *Storage) line(f []string) error {
	if len(s.mounts) > maxMounts || len(s.devices) > maxDevices {
		return errors.New("there are too many")
	}
	switch {
	case f[0] == "link" && len(f) >= 3:
		s.links[f[1]] = strings.Join(f[2:], " ")
	case f[0] == "block" && len(f) >= 3 && isNumber(f[1]):
		s.devices[f[1]] = device{folder: f[2], parts: f[3:]}
		s.byName[path.Base(f[2])] = f[1]
	case f[0] == "loop" && len(f) >= 3:
		d := s.devices[f[1]]
		d.file = strings.Join(f[2:], " ")
		s.devices[f[1]] = d
	default:
		return s.mountLine(f)
	}
	return nil
}

// mountLine reads a line of mountinfo, see proc(5):
// 36 35 98:0 /root /folder options [optional...] - kind source options
func (s *Storage) mountLine(f []string) error {
	dash := slices.Index(f, "-")
	if dash < 6 || len(f) < dash+3 || !isNumber(f[2]) {
		return fmt.Errorf("%.60q is no line of mountinfo", strings.Join(f, " "))
	}
	folder, source := unescape(f[4]), unescape(f[dash+2])
	if !path.IsAbs(folder) {
		return fmt.Errorf("%.60q is no mount point", folder)
	}
	s.mounts = append(s.mounts, mount{number: f[2], folder: path.Clean(folder), kind: f[dash+1], source: source})
	return nil
}

func isNumber(s string) bool {
	major, minor, ok := strings.Cut(s, ":")
	_, err1 := strconv.ParseUint(major, 10, 32)
	_, err2 := strconv.ParseUint(minor, 10, 32)
	return ok && err1 == nil && err2 == nil
}

// unescape reads \040 and its kin.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ErrElsewhere: a file is on none of the VM's disks, so no restore point has it.
var ErrElsewhere = errors.New("which is none of the VM's disks")

// Covered says whether a file or folder, a path without symbolic links, is on disks of
// the VM, and so are the file systems mounted below it.
func (s Storage) Covered(file string) error {
	steps := maxSteps
	if err := s.covered(file, &steps); err != nil {
		return err
	}
	prefix := strings.TrimSuffix(path.Clean(file), "/") + "/"
	for _, m := range s.mounts {
		if strings.HasPrefix(m.folder, prefix) {
			if err := s.covered(m.folder, &steps); err != nil {
				return err
			}
		}
	}
	return nil
}

// covered counts steps down: what a guest says may go round in circles.
func (s Storage) covered(file string, steps *int) error {
	m, ok := s.holder(path.Clean(file))
	if !ok {
		return fmt.Errorf("%.200q is on no file system that the guest names", file)
	}
	number := m.number
	if _, ok := s.devices[number]; !ok { // such as Btrfs: its number is no device's
		number = s.byName[path.Base(s.links[m.source])]
	}
	if !s.onDisks(number, steps) {
		return fmt.Errorf("%.200q is on %.100q (%.20s), %w", file, m.source, m.kind, ErrElsewhere)
	}
	return nil
}

// holder is the mount that a path is on: the last of the deepest.
func (s Storage) holder(file string) (found mount, ok bool) {
	for _, m := range s.mounts {
		below := m.folder == "/" || file == m.folder || strings.HasPrefix(file, m.folder+"/")
		if below && (!ok || len(m.folder) >= len(found.folder)) {
			found, ok = m, true
		}
	}
	return found, ok
}

// onDisks follows a device down to those that the VM gives the guest.
func (s Storage) onDisks(number string, steps *int) bool {
	d, ok := s.devices[number]
	if *steps--; !ok || *steps < 0 {
		return false
	}
	if d.file != "" {
		return s.covered(d.file, steps) == nil
	}
	if len(d.parts) > 0 {
		return !slices.ContainsFunc(d.parts, func(name string) bool { return !s.onDisks(s.byName[name], steps) })
	}
	return isDisk(d.folder)
}

// isDisk tells a disk of the VM from what the kernel makes up, and from what comes
// over a network, by where sysfs has it.
func isDisk(folder string) bool {
	if strings.HasPrefix(folder, "/sys/devices/virtual/") {
		// NVMe disks are below their subsystem where the kernel is built for several paths.
		return strings.HasPrefix(folder, "/sys/devices/virtual/nvme-subsystem/")
	}
	for _, part := range strings.Split(folder, "/") {
		switch {
		case strings.HasPrefix(part, "session"), strings.HasPrefix(part, "rport-"), strings.HasPrefix(part, "rbd"), strings.HasPrefix(part, "nbd"):
			return false // iSCSI, Fibre Channel, Ceph, NBD
		}
	}
	return strings.HasPrefix(folder, "/sys/devices/")
}
