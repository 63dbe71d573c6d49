package inguest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
	"github.com/lull-backup/lull/quiesce"
)

// guestStorage is a guest with a partition, LVM over two disks, Btrfs, a loop device
// over a file, iSCSI, NBD, tmpfs, NFS, and a mount with a blank in its name.
const guestStorage = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 253:0 / /srv rw - xfs /dev/mapper/vg-srv rw
24 22 0:40 /sub /var/lib/pg rw - btrfs /dev/vdd rw
25 22 7:0 / /loop rw - ext4 /dev/loop0 rw
26 22 8:16 / /san rw - ext4 /dev/sdb rw
27 22 43:0 / /nbd rw - ext4 /dev/nbd0 rw
28 22 0:41 / /run rw - tmpfs tmpfs rw
29 23 0:42 / /srv/db/remote rw - nfs4 filer:/db rw
30 22 254:48 / /with\040blank rw - ext4 /dev/vdd rw
31 22 259:0 / /nvme rw - ext4 /dev/nvme0n1 rw
32 22 7:1 / /round rw - ext4 /dev/loop1 rw
link /dev/vdd /dev/vdd
block 254:0 /sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda
block 254:1 /sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda/vda1
block 254:16 /sys/devices/pci0000:00/0000:00:03.0/virtio2/block/vdb
block 254:48 /sys/devices/pci0000:00/0000:00:05.0/virtio4/block/vdd
block 253:0 /sys/devices/virtual/block/dm-0 vda1 vdb
block 7:0 /sys/devices/virtual/block/loop0
loop 7:0 /srv/image file
block 7:1 /sys/devices/virtual/block/loop1
loop 7:1 /round/file
block 8:16 /sys/devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sdb
block 43:0 /sys/devices/virtual/block/nbd0
block 259:0 /sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1
`

func TestCovered(t *testing.T) {
	s, err := inguest.ParseStorage([]byte(guestStorage))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/var/lib/mysql": "", "/srv/x": "", "/var/lib/pg/15": "", "/loop/db": "", "/with blank/db": "", "/nvme/db": "", "/": "none of", "/srvx": "",
		"/san/db":         `"/dev/sdb" (ext4), which is none of the VM's disks`,
		"/nbd/db":         `"/dev/nbd0" (ext4)`,
		"/run/db":         `"tmpfs" (tmpfs)`,
		"/srv/db":         `"/srv/db/remote" is on "filer:/db" (nfs4)`,
		"/srv/db/remote/": `"filer:/db" (nfs4)`,
		"/round/db":       `"/dev/loop1"`,
	} {
		_, err := s.Covered([]string{path}, nil)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", path, err)
		case want != "" && (!errors.Is(err, inguest.ErrElsewhere) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

// guestDisks is a guest with a virtio-blk disk with a partition, an NVMe and a SCSI disk, and LVM
// over the latter two.
const guestDisks = `22 1 254:1 / / rw - ext4 /dev/vda1 rw
23 22 253:0 / /srv rw - xfs /dev/mapper/vg-srv rw
block 254:0 /sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda
disk 254:0 2097152 system
block 254:1 /sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda/vda1
block 259:0 /sys/devices/pci0000:00/0000:00:03.0/0000:01:00.0/nvme/nvme0/nvme0n1
disk 259:0 4194304 nvme 1
block 8:0 /sys/devices/pci0000:00/0000:00:05.0/virtio2/host2/target2:0:1/2:0:1:3/block/sda
disk 8:0 4194304
block 253:0 /sys/devices/virtual/block/dm-0 nvme0n1 sda
disk 253:0 8380416
`

// Files on disks that the restore point will not have, or which may be such, are refused;
// the others' disks are named.
func TestCoveredByThePoint(t *testing.T) {
	s, err := inguest.ParseStorage([]byte(guestDisks))
	if err != nil {
		t.Fatal(err)
	}
	all := func(change func(byName map[string]*quiesce.Disk)) []quiesce.Disk {
		disks := []quiesce.Disk{
			{Name: "system", Size: 1 << 30, Address: "0000:00:02.0"}, {Name: "nvme", Size: 2 << 30, Serial: "nvme 1", Address: "0000:01:00.0"},
			{Name: "scsi", Size: 2 << 30},
		}
		byName := map[string]*quiesce.Disk{}
		for i := range disks {
			byName[disks[i].Name] = &disks[i]
		}
		change(byName)
		return disks
	}
	out := func(names ...string) func(map[string]*quiesce.Disk) {
		return func(d map[string]*quiesce.Disk) {
			for _, n := range names {
				d[n].LeftOut = "not supported"
			}
		}
	}
	for name, test := range map[string]struct {
		files []string
		disks []quiesce.Disk
		want  string // names; or what the error says
	}{
		"nothing is known":         {[]string{"/srv/db"}, nil, ""},
		"on a partition":           {[]string{"/var/lib/mysql"}, all(out()), "system"},
		"on two disks":             {[]string{"/srv/db", "/var/log"}, all(out()), "nvme system"}, // sda may be either
		"another is left out":      {[]string{"/var/lib/mysql"}, all(out("nvme", "scsi")), "system"},
		"it is left out":           {[]string{"/", "/var/lib/mysql"}, all(out("system")), `"vda": the restore point lacks the disk system`},
		"part of LVM is left out":  {[]string{"/srv/db"}, all(out("nvme")), `"nvme0n1": the restore point lacks the disk`},
		"it may be one left out":   {[]string{"/srv/db"}, all(out("scsi")), `"sda": the restore point lacks the disk, or cannot tell it from scsi`},
		"mounted below, left out":  {[]string{"/"}, all(out("nvme")), "the restore point lacks the disk"},
		"a disk of no known place": {[]string{"/"}, append(all(out()), quiesce.Disk{Name: "vhost", LeftOut: "served by another"}), "cannot tell it from vhost"},
	} {
		t.Run(name, func(t *testing.T) {
			names, err := s.Covered(test.files, test.disks)
			got := strings.Join(names, " ")
			if err != nil {
				got = err.Error()
			}
			if errors.Is(err, quiesce.ErrLeftOut) != (err != nil) || err == nil && got != test.want || !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// A guest may make up devices that consist of each other.
func TestCoveredEnds(t *testing.T) {
	var b strings.Builder
	b.WriteString("1 0 253:0 / / rw - ext4 /dev/dm-0 rw\n")
	for i := range 100 {
		fmt.Fprintf(&b, "block 253:%d /sys/devices/virtual/block/dm-%d", i, i)
		for j := range 100 {
			fmt.Fprintf(&b, " dm-%d", (i+j)%100)
		}
		b.WriteByte('\n')
	}
	s, err := inguest.ParseStorage([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Covered([]string{"/x"}, nil); !errors.Is(err, inguest.ErrElsewhere) {
		t.Errorf("%v, want %v", err, inguest.ErrElsewhere)
	}
}

func FuzzStorage(f *testing.F) {
	f.Add([]byte(guestStorage), "/srv/db")
	f.Add([]byte(guestDisks), "/srv/db")
	f.Add([]byte("1 0 7:0 / / - a b\nblock 7:0 /x\nloop 7:0 /y\n"), "/")
	f.Add([]byte("36 35 98:0 /a\\04 /b rw - - - -\n"), "b")
	f.Fuzz(func(t *testing.T, out []byte, path string) {
		s, err := inguest.ParseStorage(out)
		if err != nil {
			return
		}
		disks := []quiesce.Disk{{Name: "a", Size: 1 << 30, Address: "0000:00:02.0"}, {Name: "b", LeftOut: "x"}}
		if _, err := s.Covered([]string{path, "/"}, disks); err != nil && len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}
