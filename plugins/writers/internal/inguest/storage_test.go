package inguest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
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
		err := s.Covered(path)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", path, err)
		case want != "" && (!errors.Is(err, inguest.ErrElsewhere) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %s", path, err, want)
		}
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
	if err := s.Covered("/x"); !errors.Is(err, inguest.ErrElsewhere) {
		t.Errorf("%v, want %v", err, inguest.ErrElsewhere)
	}
}

func FuzzStorage(f *testing.F) {
	f.Add([]byte(guestStorage), "/srv/db")
	f.Add([]byte("1 0 7:0 / / - a b\nblock 7:0 /x\nloop 7:0 /y\n"), "/")
	f.Add([]byte("36 35 98:0 /a\\04 /b rw - - - -\n"), "b")
	f.Fuzz(func(t *testing.T, out []byte, path string) {
		s, err := inguest.ParseStorage(out)
		if err != nil {
			return
		}
		if err := s.Covered(path); err != nil && len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}
