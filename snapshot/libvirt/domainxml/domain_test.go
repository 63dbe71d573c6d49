package domainxml

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lull-backup/lull/snapshot"
)

const example = `<?xml version='1.0'?>
<!-- a comment -->
<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>we&amp;b</name>
  <uuid>0d7a6c3e-0000-4000-8000-000000000001</uuid>
  <genid>0d7a6c3e-0000-4000-8000-00000000000f</genid>
  <metadata>
    <lull:backup xmlns:lull='https://github.com/lull-backup/lull/domain/1'><lull:tag>nightly</lull:tag><lull:tag> db </lull:tag></lull:backup>
    <backup xmlns='urn:other'><tag>theirs</tag></backup>
  </metadata>
  <memory unit='GiB'>2</memory>
  <vcpu current='1'>4</vcpu>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>
  </os>
  <cpu mode='host-passthrough'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/srv/web.qcow2' index='1'/>
      <backingStore type='file'><format type='raw'/><source file='/srv/base.img'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/>
      <address type='pci' slot='0x04'/>
    </disk>
    <disk type='block' device='disk'>
      <source dev='/dev/vg/data'/>
      <target dev='sda' bus='scsi'/>
      <readonly/>
    </disk>
    <disk type='file' device='cdrom'>
      <source file='/srv/install.iso'/>
      <target dev='sdb' bus='sata'/>
    </disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/><target dev='vnet3'/></interface>
    <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/></interface>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'><encryption secret='0d7a6c3e-0000-4000-8000-0000000000aa'/></backend></tpm>
  </devices>
  <qemu:commandline><qemu:arg value='-foo'/></qemu:commandline>
</domain>`

func parsed(t *testing.T, text string) *Domain {
	t.Helper()
	d, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDomain(t *testing.T) {
	d := parsed(t, example)
	tpm, ok := d.TPM()
	networks, bridges := d.Networks()
	got := []any{d.Name(), d.UUID(), d.Tags(), d.Agent(), d.UEFI(), d.NVRAM(), d.NVRAMFormat(), tpm, ok, networks, bridges, d.Emulator()}
	want := []any{
		"we&b", "0d7a6c3e-0000-4000-8000-000000000001", []string{"db", "nightly"}, true, true, "/var/lib/libvirt/qemu/nvram/web_VARS.fd", "raw",
		TPM{Kind: "emulator", Emulated: true, Secret: "0d7a6c3e-0000-4000-8000-0000000000aa"}, true, []string{"default"}, []string{"br0"}, "/usr/bin/qemu-system-x86_64",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	disks := []Disk{
		{Target: "vda", Bus: "virtio", Device: "disk", Type: "file", Format: "qcow2", Path: "/srv/web.qcow2",
			Backing: []snapshot.Layer{{Path: "/srv/base.img", Format: "raw"}}},
		{Target: "sda", Bus: "scsi", Device: "disk", Type: "block", Format: "raw", Path: "/dev/vg/data", ReadOnly: true},
		{Target: "sdb", Bus: "sata", Device: "cdrom", Type: "file", Format: "raw", Path: "/srv/install.iso"},
	}
	if diff := cmp.Diff(disks, d.Disks(), cmpopts.IgnoreUnexported(Disk{})); diff != "" {
		t.Error(diff)
	}
	hw := d.Hardware()
	hw.Devices = nil
	if diff := cmp.Diff(snapshot.Hardware{UUID: d.UUID(), Machine: "pc-q35-7.2", Arch: "x86_64", CPU: "host", Accelerator: "kvm",
		VCPUs: 4, Memory: 2 << 30, Firmware: "uefi"}, hw); diff != "" {
		t.Error(diff)
	}
}

// TestRoundTrip: what is written reads as the same.
func TestRoundTrip(t *testing.T) {
	once := parsed(t, example).String()
	if again := parsed(t, once).String(); again != once {
		t.Error(cmp.Diff(once, again))
	}
	for _, part := range []string{"<name>we&amp;b</name>", "qemu:arg value='-foo'", "xmlns:qemu=", "slot='0x04'", "theirs"} {
		if !strings.Contains(once, part) {
			t.Errorf("%s is lost in\n%s", part, once)
		}
	}
}

func restored() Restored {
	return Restored{
		Disks: []snapshot.RestoredDisk{{Name: "vda", Path: "/new/we b's.raw", Format: snapshot.FormatRaw}},
		NVRAM: "/new/web_VARS.fd", GenerationID: "11111111-0000-4000-8000-000000000000",
		Exists: func(path string) bool { return strings.HasPrefix(path, "/usr/") },
	}
}

func TestRestoreSame(t *testing.T) {
	d := parsed(t, example)
	r := restored()
	r.Disks = append(r.Disks, snapshot.RestoredDisk{Name: "vdq", Path: "/new/q.raw", Format: snapshot.FormatRaw})
	remarks := d.Restore(r)
	want := []string{"the disk sda was not restored: it is left out", "the drive sdb is empty: its medium is not on this host",
		"the disk vdq was restored, but the definition lacks it: attach /new/q.raw to the domain where it needs it"}
	if diff := cmp.Diff(want, remarks); diff != "" {
		t.Error(diff)
	}
	d = parsed(t, d.String())
	disks := []Disk{
		{Target: "vda", Bus: "virtio", Device: "disk", Type: "file", Format: "raw", Path: "/new/we b's.raw"},
		{Target: "sdb", Bus: "sata", Device: "cdrom", Type: "file", Format: "raw"},
	}
	if diff := cmp.Diff(disks, d.Disks(), cmpopts.IgnoreUnexported(Disk{})); diff != "" {
		t.Error(diff)
	}
	text := d.String()
	for part, there := range map[string]bool{
		"id='7'": false, "cache='none'": true, "/srv/base.img": false, "52:54:00:00:00:01": true, "vnet3": true,
		"11111111-0000-4000-8000-000000000000": true, "/new/web_VARS.fd": true, "<emulator>": true, "slot='0x04'": true,
	} {
		if strings.Contains(text, part) != there {
			t.Errorf("%s there: %v\n%s", part, !there, text)
		}
	}
}

func TestRestoreAnother(t *testing.T) {
	d := parsed(t, example)
	r := restored()
	r.Name, r.UUID, r.NVRAM = "copy", "22222222-0000-4000-8000-000000000000", ""
	r.Exists = func(string) bool { return false }
	remarks := strings.Join(d.Restore(r), "\n")
	if d.Name() != "copy" || d.UUID() != r.UUID || d.NVRAM() != "" || d.Emulator() != "" {
		t.Error(d)
	}
	text := d.String()
	if strings.Contains(text, "52:54:00") || strings.Contains(text, "vnet3") || strings.Contains(text, "OVMF") || !strings.Contains(text, "firmware='efi'") {
		t.Error(text)
	}
	if !strings.Contains(remarks, "variables") && !strings.Contains(remarks, "firmware") {
		t.Error(remarks)
	}
}

func TestNew(t *testing.T) {
	d, remarks := New(snapshot.Restored{
		Name: "lab/web", Disks: []snapshot.RestoredDisk{{Name: "disk0", Path: "/n/a.qcow2", Format: "qcow2"}, {Name: "disk1", Path: "/n/b.raw", Format: "raw"}},
		Hardware: snapshot.Hardware{Machine: "pc-q35-7.2", Arch: "x86_64", CPU: "host", VCPUs: 2, Memory: 1 << 30, Firmware: "uefi", Accelerator: "kvm",
			Devices: []snapshot.Device{{Driver: "scsi-hd", Disk: "disk1"}}},
	})
	d = parsed(t, d.String())
	var got []string
	for _, disk := range d.Disks() {
		got = append(got, disk.Target+" "+disk.Bus+" "+disk.Format+" "+disk.Path)
	}
	if diff := cmp.Diff([]string{"vda virtio qcow2 /n/a.qcow2", "sda scsi raw /n/b.raw"}, got); diff != "" {
		t.Error(diff)
	}
	if d.Name() != "web" || !d.UEFI() || !d.Agent() || len(remarks) == 0 || d.Hardware().Memory != 1<<30 {
		t.Errorf("%v\n%s", remarks, d)
	}
	for n, want := range map[int]string{0: "a", 25: "z", 26: "aa", 27: "ab", 702: "aaa"} {
		if letters(n) != want {
			t.Errorf("%d is %s", n, letters(n))
		}
	}
}

func TestHostile(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":       "",
		"no domain":     "<network><name>x</name></network>",
		"no name":       "<domain/>",
		"not closed":    "<domain><name>x</name>",
		"closed twice":  "<domain><name>x</name></domain></domain>",
		"crossed":       "<domain><name>x</domain></name>",
		"two":           "<domain><name>x</name></domain><domain/>",
		"an entity":     "<!DOCTYPE x [<!ENTITY y 'z'>]><domain><name>&y;</name></domain>",
		"too deep":      "<domain><name>x</name>" + strings.Repeat("<a>", maxDepth+1),
		"too long":      "<domain><name>" + strings.Repeat("x", maxBytes) + "</name></domain>",
		"too many":      "<domain><name>x</name>" + strings.Repeat("<a/>", maxNodes+1) + "</domain>",
		"unknown value": "<domain><name>&nbsp;</name></domain>",
	} {
		if _, err := Parse(text); !errors.Is(err, ErrXML) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("<domain><name>x</name><memory unit='b'>-1</memory><vcpu>99999999999</vcpu></domain>")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrXML) {
				t.Errorf("parse: %v", err)
			}
			return
		}
		d.Hardware()
		d.Tags()
		d.TPM()
		d.Restore(restored())
		if _, err := Parse(d.String()); err != nil && len(d.String()) < maxBytes {
			t.Errorf("what was written is no XML: %v\n%s", err, d)
		}
	})
}

// Of a run that is over the definition of then keeps nothing that another run would meet.
func TestForget(t *testing.T) {
	d, err := Parse("<domain id='3'><name>web</name><devices><interface type='network'><source network='default' portid='6e031fff' bridge='virbr0'/></interface>" +
		"<interface type='user'/></devices></domain>")
	if err != nil {
		t.Fatal(err)
	}
	d.Forget()
	if text := d.String(); strings.Contains(text, "portid") || !strings.Contains(text, "network=") {
		t.Error(text)
	}
}

// What reaches into the host is the same of a domain that runs, but for where the guest sees it.
func TestReach(t *testing.T) {
	t.Parallel()
	const hostdev = "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source>%s</hostdev>"
	reach := func(devices, more string) []string {
		t.Helper()
		d, err := Parse("<domain><name>x</name>" + more + "<devices>" + devices + "</devices></domain>")
		if err != nil {
			t.Fatal(err)
		}
		return d.Reach()
	}
	all := "<emulator>/usr/bin/qemu</emulator><filesystem><source dir='/srv'/></filesystem><interface><script path='/x'/></interface>"
	next := reach(all+fmt.Sprintf(hostdev, ""), "")
	if ran := reach(all+fmt.Sprintf(hostdev, "<alias name='h0'/><address bus='0'/>"), ""); len(next) != 4 || !slices.Equal(next, ran) {
		t.Errorf("%q, and as it runs %q", next, ran)
	}
	if got := reach(all, "<q:commandline xmlns:q='"+qemuNamespace+"'><q:arg value='-S'/></q:commandline>"); len(got) != 4 || slices.Equal(next, got) {
		t.Errorf("with arguments: %q", got)
	}
	for _, text := range []string{"<devices/><devices/>", "<name>y</name>", "<uuid>1</uuid><uuid>2</uuid>"} {
		if _, err := Parse("<domain><name>x</name>" + text + "</domain>"); !errors.Is(err, ErrXML) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Move names the new images alone, and leaves all else as it is.
func TestMove(t *testing.T) {
	t.Parallel()
	d, err := Parse(`<domain><name>web</name><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/a.qcow2' index='3'/><backingStore type='file'><format type='raw'/><source file='/base'/></backingStore><target dev='vda'/></disk>
<disk type='file' device='cdrom'><source file='/a.iso'/><target dev='sda'/></disk></devices></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	d.Move(map[string]string{"vda": "/it's.layer", "vdb": "/none"})
	d.Rename("other")
	text := d.String()
	again, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	disks := again.Disks()
	if again.Name() != "other" || len(disks) != 2 || disks[0].Path != "/it's.layer" || len(disks[0].Backing) > 0 || disks[1].Path != "/a.iso" ||
		strings.Contains(text, "index") || !strings.Contains(text, "cache='none'") {
		t.Error(text)
	}
}
