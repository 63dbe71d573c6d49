package qemu

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
)

// Disks that a backup cannot have are named: a point without them does not pass for whole.
func TestUnseenDisks(t *testing.T) {
	got := unseen([]snapshot.Device{
		{Driver: "virtio-blk-pci", ID: "disk0", Path: "/machine/peripheral/disk0"},
		{Driver: "vhost-user-blk-pci", ID: "fast", Path: "/machine/peripheral/fast"},
		{Driver: "vhost-scsi-pci", Path: "/machine/peripheral-anon/device[3]"},
	})
	var names []string
	for _, x := range got {
		names = append(names, x.Disk.Name)
		if x.Expected || x.Reason == "" {
			t.Errorf("%s is left out without a warning: %+v", x.Disk.Name, x)
		}
	}
	if diff := cmp.Diff([]string{"fast", "device[3]"}, names); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
}

// The memory of a TPM is in no restore point, and that is said.
func TestUnkeptTPM(t *testing.T) {
	got := unkept([]snapshot.Device{
		{Driver: "virtio-blk-pci", ID: "disk0"}, {Driver: "tpm-tis", Path: "/machine/peripheral-anon/device[0]"}, {Driver: "tpm-crb", ID: "tpm0"},
	})
	if len(got) != 2 || !strings.Contains(got[0], "TPM tpm-tis") || !strings.Contains(got[1], "TPM tpm0") {
		t.Errorf("warnings: %q", got)
	}
}

// A delta on a disk whose SCSI commands are passed through would end the guest's I/O.
func TestPassedThrough(t *testing.T) {
	d := disk{Disk: snapshot.Disk{Name: "lun0", Format: snapshot.FormatRaw}, passed: true,
		block: block{QDev: "lun0", Inserted: &inserted{Driver: "host_device"}}}
	if reason, expected := d.unfit(); reason == "" || expected {
		t.Errorf("reason %q, expected %v", reason, expected)
	}
	d.passed = false
	if reason, _ := d.unfit(); reason != "" {
		t.Errorf("left out: %s", reason)
	}
}
