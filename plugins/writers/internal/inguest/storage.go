package inguest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/quiesce"
)

// storageScript prints the mounts, then of those without a device number of their own
// what their source leads to, then the block devices: number, folder in sysfs, the
// devices that each is made of, and the file below a loop device; of those that are no
// partitions the size in sectors of 512 bytes, and the serial number. SCSI disks have that
// in a page that begins with four bytes of its own.
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
    [ ! -e partition ] && read -r size <size || continue
    serial=
    for s in serial device/serial; do [ -n "$serial" ] || [ ! -r $s ] || read -r serial <$s; done 2>/dev/null
    [ -n "$serial" ] || [ ! -r device/vpd_pg80 ] || serial=$(tail -c +5 device/vpd_pg80 | tr -cd '[:graph:]')
    echo "disk $number $size $serial"
done
exit 0`

// Bounds of what a guest may have.
const (
	maxMounts  = 10000
	maxDevices = 10000
)

const sectorSize = 512

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
	whole  bool     // it is no partition
	size   int64    // bytes; 0: not known
	serial string
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
	case f[0] == "disk" && len(f) >= 3:
		d := s.devices[f[1]]
		if sectors, err := strconv.ParseInt(f[2], 10, 50); err == nil && sectors > 0 {
			d.size = sectors * sectorSize
		}
		d.whole, d.serial = true, strings.Join(f[3:], " ")
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

// HintMove is what to do about files that a restore point would not have; whose says whose
// they are.
func HintMove(err error, whose string) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		return h.Hint()
	}
	if errors.Is(err, quiesce.ErrLeftOut) {
		return "put right why the disk is left out, and back " + whose + " up by its own means until then"
	}
	return "move it to a disk of the VM, and back it up by " + whose + "'s own means until then"
}

// ErrElsewhere: a file is on none of the VM's disks, so no restore point has it.
var ErrElsewhere = errors.New("which is none of the VM's disks")

// Covered says whether files or folders, paths without symbolic links, are on disks of
// the VM that will be in the restore point, and so are the file systems mounted below them:
// else that is ErrElsewhere or quiesce.ErrLeftOut. It names those disks, as far as they
// are known.
func (s Storage) Covered(files []string, disks []quiesce.Disk) (names []string, err error) {
	way := descent{}
	for _, file := range files {
		if err := s.covered(file, way); err != nil {
			return nil, err
		}
		prefix := strings.TrimSuffix(path.Clean(file), "/") + "/"
		for _, m := range s.mounts {
			if strings.HasPrefix(m.folder, prefix) {
				if err := s.covered(m.folder, way); err != nil {
					return nil, err
				}
			}
		}
	}
	return s.inPoint(way, disks)
}

// inPoint finds the disks at the end of a way among those of the VM.
func (s Storage) inPoint(way descent, disks []quiesce.Disk) (names []string, err error) {
	for _, number := range slices.Sorted(maps.Keys(way)) {
		if !way[number].end {
			continue
		}
		d := s.whole(number)
		name, err := quiesce.Find(disks, quiesce.Disk{Size: d.size, Serial: d.serial, Address: address(d.folder)})
		if err != nil {
			return nil, fmt.Errorf("files are on %.100q: %w", path.Base(d.folder), err)
		}
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// whole is the disk that a partition is on, or the device itself.
func (s Storage) whole(number string) device {
	d := s.devices[number]
	if parent, ok := s.devices[s.byName[path.Base(path.Dir(d.folder))]]; ok && !d.whole && parent.folder == path.Dir(d.folder) {
		return parent
	}
	return d
}

// address is the PCI device of a disk that has one to itself: virtio-blk, or NVMe. Behind the
// controller of other disks there may be several.
func address(folder string) string {
	m := regexp.MustCompile(`/([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])/(?:virtio\d+/block|nvme)/`).FindStringSubmatch(folder + "/")
	if m == nil {
		return ""
	}
	return m[1]
}

// descent is the way down from files to disks: the devices on it, by their numbers. Each is
// walked once, since what a guest says may go round in circles.
type descent map[string]struct {
	end, onDisks bool // it is a disk of the VM; it consists of such
}

func (s Storage) covered(file string, way descent) error {
	m, ok := s.holder(path.Clean(file))
	if !ok {
		return fmt.Errorf("%.200q is on no file system that the guest names", file)
	}
	number := m.number
	if _, ok := s.devices[number]; !ok { // such as Btrfs: its number is no device's
		number = s.byName[path.Base(s.links[m.source])]
	}
	if !s.onDisks(number, way) {
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
func (s Storage) onDisks(number string, way descent) bool {
	d, ok := s.devices[number]
	if !ok {
		return false
	}
	step, walked := way[number]
	if walked {
		return step.onDisks
	}
	way[number] = step // for who comes here again on the way down
	switch {
	case d.file != "":
		step.onDisks = s.covered(d.file, way) == nil
	case len(d.parts) > 0:
		step.onDisks = !slices.ContainsFunc(d.parts, func(name string) bool { return !s.onDisks(s.byName[name], way) })
	default:
		step.onDisks = isDisk(d.folder)
		step.end = step.onDisks
	}
	way[number] = step
	return step.onDisks
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
