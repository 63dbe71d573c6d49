package libvirt

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/libvirttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/space"
)

const tagged = `<lull:backup xmlns:lull='https://github.com/lull-backup/lull/domain/1'><lull:tag>nightly</lull:tag></lull:backup>`

// offDevices are what a domain can have beside the disks that are backed up.
const offDevices = `
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
<disk type='network' device='disk'><source protocol='nbd' name='x'><host name='localhost' port='1'/></source><target dev='vdx' bus='virtio'/></disk>
<disk type='volume' device='disk'><source pool='default' volume='v'/><target dev='vdy' bus='virtio'/></disk>
<graphics type='vnc' passwd='geheim'/><video><model type='none'/></video>`

// TestOff backs up domains that are off. The cases share a daemon; the first wants to be
// alone with its domain.
func TestOff(t *testing.T) {
	t.Parallel()
	d := libvirttest.Start(t)
	c := d.Dial(t)
	t.Run("Whole", func(t *testing.T) { offWhole(t, d, c) })
	t.Run("Started", func(t *testing.T) { offStarted(t, d, c) })
	t.Run("LeftOut", func(t *testing.T) { leftOut(t, d, c) })
	t.Run("Memory", func(t *testing.T) { cutMemory(t, d, c) }) // the daemon ends in it
}

// offWhole backs up a domain as an administrator would meet it.
func offWhole(t *testing.T, d *libvirttest.Daemon, c *rpc.Conn) {
	t.Helper()
	dom := libvirttest.Define(t, d, c, libvirttest.Options{
		Options: guesttest.Options{Name: "Web", Disks: []guesttest.Disk{{Size: 8 << 20}, {Size: 8 << 20, Format: snapshot.FormatRaw}}},
		OS:      "<type arch='x86_64' machine='q35'>hvm</type>", Metadata: tagged, Devices: offDevices,
	})
	tpm := filepath.Join(t.TempDir(), "swtpm")
	h := NewHost(d.Address(), Options{TPMDir: tpm})
	defer h.Close()
	ctx := t.Context()

	found, err := h.Discover(ctx)
	if diff := cmp.Diff([]snapshot.Found{{Name: "Web", Tags: []string{"nightly"}}}, found); diff != "" || err != nil {
		t.Errorf("found: %v\n%s", err, diff)
	}
	vms, err := h.VMs(ctx)
	want := []snapshot.VM{{Name: "Web", State: snapshot.StateOff, Guest: true, Disks: []snapshot.Disk{
		{Name: "vda", Path: dom.Disks[0], Format: snapshot.FormatQcow2, Size: 8 << 20},
		{Name: "vdb", Path: dom.Disks[1], Format: snapshot.FormatRaw, Size: 8 << 20},
	}}}
	if diff := cmp.Diff(want, vms); diff != "" || err != nil {
		t.Errorf("VMs: %v\n%s", err, diff)
	}
	if _, err := h.Plan(ctx, "other", "r1"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("plan of no domain: %v", err)
	}

	p, err := h.Plan(ctx, "Web", "r1")
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]bool{}
	for _, x := range p.Excluded {
		reasons[x.Disk.Name] = x.Expected
	}
	if diff := cmp.Diff(map[string]bool{"sda": true, "vdx": false, "vdy": false}, reasons); diff != "" {
		t.Errorf("left out: %s", diff)
	}
	if p.Host != Kind || p.State != snapshot.StateOff || len(p.Disks) != 2 || p.Hardware.UUID != dom.ID.UUID.String() || p.Hardware.Machine == "" {
		t.Errorf("plan %+v", p)
	}
	if p, err = h.Track(ctx, p, "series", nil); err != nil || p.Disks[0].Track.Record != "" {
		t.Errorf("track: %+v, %v", p.Disks[0].Track, err)
	}
	frozen := takeOff(t, h, p)

	xml, err := frozen.File(ctx, definitionPath)
	if err != nil || !strings.Contains(string(xml), "geheim") || !strings.Contains(string(xml), dom.Disks[0]) {
		t.Errorf("definition: %v\n%s", err, xml)
	}
	src, err := frozen.Disk(ctx, "vda")
	if err != nil {
		t.Fatal(err)
	}
	if err := src.ReadAt(ctx, make([]byte, 4096), 0); err != nil || src.Size() != 8<<20 {
		t.Errorf("disk: %v", err)
	}
	if err := errors.Join(src.Close(), frozen.Close(), h.Merge(ctx, p), h.Merge(ctx, p)); err != nil {
		t.Fatal(err)
	}
	badMemory(t, d, dom)
}

func takeOff(t *testing.T, h *Host, p snapshot.Plan) snapshot.Frozen {
	t.Helper()
	if err := errors.Join(h.Prepare(t.Context(), p), h.Take(t.Context(), p)); err != nil {
		t.Fatal(err)
	}
	frozen, err := h.Open(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return frozen
}

// offStarted: a domain that is started between plan and locks is not read.
func offStarted(t *testing.T, d *libvirttest.Daemon, c *rpc.Conn) {
	t.Helper()
	dom := libvirttest.Define(t, d, c, libvirttest.Options{
		Options: guesttest.Options{Name: "web", Disks: []guesttest.Disk{{Size: 8 << 20}}},
		OS:      "<type arch='x86_64' machine='q35'>hvm</type>",
		Devices: "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
	})
	h := NewHost(d.Address(), Options{TPMDir: d.Outside(DefaultTPMDir)})
	defer h.Close()
	ctx := t.Context()
	p, err := h.Plan(ctx, "web", "r1")
	if err != nil {
		t.Fatal(err)
	}
	if dom.ID, err = c.Create(ctx, dom.ID, rpc.StartPaused); err != nil {
		t.Fatal(err)
	}
	var hinted *snapshot.Hinted
	if err := h.Prepare(ctx, p); !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "again") {
		t.Errorf("prepare of a domain that runs now: %v", err)
	}
	g, err := h.Guest(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if _, err := g.ThawFilesystems(ctx); !errors.Is(err, snapshot.ErrGuestSilent) || errors.Is(err, snapshot.ErrGone) {
		t.Errorf("thaw of a guest that stands still: %v", err)
	}
	if err := errors.Join(h.Merge(ctx, p), dom.Kill(ctx)); err != nil {
		t.Error(err)
	}
	if _, err := g.ThawFilesystems(ctx); !errors.Is(err, snapshot.ErrGone) {
		t.Errorf("thaw of a guest that is gone: %v", err)
	}
	// It has been on: its TPM has a state now.
	if p, err = h.Plan(ctx, "web", "r2"); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.Files, func(f snapshot.File) bool { return f.Role == snapshot.RoleTPM })
	if i < 0 {
		t.Fatalf("no TPM state in %+v, %v", p.Files, p.Warnings)
	}
	frozen := takeOff(t, h, p)
	// It is not started meanwhile, and QEMU says why.
	if _, err := c.Create(ctx, dom.ID, rpc.StartPaused); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("started in mid-backup: %v", err)
	}
	notReplaced(t, d, dom, p.Files[i].Path)
	kept, err := frozen.File(ctx, p.Files[i].Path)
	is, readErr := os.ReadFile(p.Files[i].Path)
	if err := errors.Join(err, readErr); err != nil || len(kept) == 0 || string(kept) != string(is) {
		t.Errorf("TPM state of %d bytes: %v", len(kept), err)
	}
	if err := errors.Join(frozen.Close(), h.Merge(ctx, p)); err != nil {
		t.Error(err)
	}
	if _, err := c.Create(ctx, dom.ID, rpc.StartPaused); err != nil {
		t.Errorf("start after the backup: %v", err)
	}
	if err := c.ManagedSave(ctx, dom.ID, 0); err != nil {
		t.Fatal(err)
	}
	if text, err := c.ManagedSaveXML(ctx, dom.ID); err != nil || !strings.Contains(text, "<name>web<") {
		t.Errorf("definition in a managed save: %v\n%s", err, text)
	}
	if p, err = h.Plan(ctx, "web", "r3"); err != nil || !slices.ContainsFunc(p.Warnings, func(w string) bool { return strings.Contains(w, "managedsave") }) {
		t.Errorf("plan of a domain with a managed save: %v, %v", p.Warnings, err)
	}
	again := Definer{Address: d.Address(), Replace: true}
	err = again.Check(ctx, "web", snapshot.Hardware{UUID: dom.ID.UUID.String()})
	if !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "managedsave-remove web") {
		t.Errorf("replace a domain with a managed save: %v", err)
	}
}

// leftOut: what others may write to, and what nobody keeps, is in no point of a domain that
// runs either. Then that domain's QEMU stands still, and no other domain waits for it.
func leftOut(t *testing.T, d *libvirttest.Daemon, c *rpc.Conn) {
	t.Helper()
	ctx := t.Context()
	options := func(name string) libvirttest.Options {
		return libvirttest.Options{
			Options: guesttest.Options{Name: name, Disks: []guesttest.Disk{{Size: diskSize}}, Memory: 64 << 20},
			OS:      "<type arch='x86_64' machine='q35'>hvm</type>",
		}
	}
	o := options("mixed")
	dir := t.TempDir()
	for name, kind := range map[string]string{"vdx": "shareable", "vdy": "transient"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, diskSize), 0o600); err != nil {
			t.Fatal(err)
		}
		o.Devices += "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='" + path + "'/><target dev='" + name + "' bus='virtio'/><" + kind + "/></disk>"
	}
	o.Devices += encryptedDisk(t, d, dir)
	h := NewHost(d.Address(), Options{QEMU: qemu.Options{RuntimeDir: dir}})
	defer h.Close()
	for _, o := range []libvirttest.Options{o, options("other")} {
		dom := libvirttest.Define(t, d, c, o)
		if _, err := c.Create(ctx, dom.ID, rpc.StartPaused); err != nil {
			t.Fatal(err)
		}
	}
	p, err := h.Plan(ctx, "mixed", "r1")
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for _, x := range p.Excluded {
		reason, _, _ := strings.Cut(x.Reason, ":")
		reasons[x.Disk.Name] = reason
	}
	if diff := cmp.Diff(map[string]string{"vdx": "shareable", "vdy": "transient", "vdz": "encrypted by QEMU"}, reasons); diff != "" || len(p.Disks) != 1 {
		t.Errorf("%d disks, left out: %s", len(p.Disks), diff)
	}
	waits := func(why string) { t.Errorf("waits: %s", why) }
	if _, err := h.Reserve(ctx, p, snapshot.Want{}, waits); err != nil {
		t.Error(err)
	}
	if written, over, err := h.Written(ctx, p); err != nil || written["vda"] != 0 || len(written) != 1 || over <= 0 {
		t.Errorf("the guest wrote %v in %v, %v", written, over, err)
	}
	if err := errors.Join(h.Prepare(ctx, p), h.Take(ctx, p)); err != nil {
		t.Error(err)
	}
	if takes := h.Deltas(p); takes["vda"] <= 0 {
		t.Errorf("deltas take %v", takes)
	}
	if err := h.Merge(ctx, p); err != nil {
		t.Error(err)
	}
	h.Release(p)
	tight := NewHost(d.Address(), Options{QEMU: qemu.Options{RuntimeDir: dir, Space: space.Limits{Delta: space.Pair{Hard: space.Amount{Bytes: 1}}}}})
	defer tight.Close()
	if _, err := tight.Reserve(ctx, p, snapshot.Want{Deltas: map[string]int64{"vda": 1 << 60}}, waits); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Errorf("a run that cannot fit: %v", err)
	}
	if left, err := h.Compare(ctx, "mixed", nil); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
	stuck(t, c, h)
}

// encryptedDisk is a disk of a domain that QEMU encrypts with a secret of libvirt's.
func encryptedDisk(t *testing.T, d *libvirttest.Daemon, dir string) string {
	t.Helper()
	const secret = "5f2c8a52-0b3e-4c55-9f5e-3d0c6f1f7a11"
	path, text := filepath.Join(dir, "vdz"), filepath.Join(dir, "secret.xml")
	shell(t, "qemu-img", "create", "-q", "--object", "secret,id=key,data=hush", "-f", "qcow2",
		"-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10,encrypt.hash-alg=sha512", path, "4M") // SHA-256 is too fast for QEMU 7.2 to measure
	if err := os.WriteFile(text, []byte("<secret ephemeral='yes' private='yes'><uuid>"+secret+"</uuid><usage type='volume'><volume>"+path+"</volume></usage></secret>"), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, "virsh", "-q", "-c", d.Address().String(), "secret-define", text)
	shell(t, "virsh", "-q", "-c", d.Address().String(), "secret-set-value", secret, "--base64", base64.StdEncoding.EncodeToString([]byte("hush")))
	return "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='" + path + "'><encryption format='luks'><secret type='passphrase' uuid='" + secret +
		"'/></encryption></source><target dev='vdz' bus='virtio'/></disk>"
}

// stuck asks for more of a domain whose QEMU stands still than the daemon works on for one
// connection, and then for another domain.
func stuck(t *testing.T, c *rpc.Conn, h *Host) {
	t.Helper()
	dom, err := c.Lookup(t.Context(), "mixed")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := findPID(dom)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGSTOP)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var asked sync.WaitGroup
	for range 2 * rpc.MaxCalls {
		asked.Go(func() {
			d := h.domain(identity{dom.UUID, dom.Name})
			_ = d.Stop(ctx) // what becomes of it does not matter
			_ = d.link.end()
		})
	}
	for range 3 {
		if _, err := h.Plan(ctx, "other", "r2"); err != nil {
			t.Errorf("another domain beside one that stands still: %v", err)
		}
	}
	if found, err := h.Discover(ctx); err != nil || !slices.ContainsFunc(found, func(f snapshot.Found) bool { return f.Name == "other" && f.Problem == "" }) {
		t.Errorf("all domains beside one that stands still: %+v, %v", found, err)
	}
	cancel()
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Error(err)
	}
	asked.Wait()
}

// notReplaced: a definition that libvirt refuses leaves the state of the TPM as it is.
func notReplaced(t *testing.T, d *libvirttest.Daemon, dom *libvirttest.Domain, state string) {
	t.Helper()
	text, err := dom.Conn.XML(t.Context(), dom.ID, rpc.XMLInactive|rpc.XMLSecure)
	before, readErr := os.ReadFile(state)
	dir := t.TempDir()
	definition, other := filepath.Join(dir, "definition"), filepath.Join(dir, "tpm")
	err = errors.Join(err, readErr, os.WriteFile(other, []byte("other"), 0o600),
		os.WriteFile(definition, []byte(strings.Replace(text, ">hvm<", ">nonsense<", 1)), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	err = Definer{Address: d.Address(), Replace: true, TPMDir: d.Outside(DefaultTPMDir)}.Define(t.Context(), dir, snapshot.Restored{
		Name:  "kvm/web",
		Disks: []snapshot.RestoredDisk{{Name: "vda", Path: dom.Disks[0], Format: snapshot.FormatQcow2}},
		Files: []snapshot.RestoredFile{
			{File: snapshot.File{Path: definitionPath, Role: snapshot.RoleDefinition}, Now: definition},
			{File: snapshot.File{Path: state, Role: snapshot.RoleTPM}, Now: other},
		},
	})
	var refused *rpc.Error
	if !errors.As(err, &refused) {
		t.Errorf("define nonsense: %v", err)
	}
	after, err := os.ReadFile(state)
	if err != nil || string(after) != string(before) {
		t.Errorf("the TPM's state was replaced: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(state), ".tpm*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestOffChains: backing files are those of libvirt's word, where it has one.
func TestOffChains(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		backing string
		want    error
	}{
		"none":    {"", nil},
		"same":    {"<backingStore type='file'><format type='raw'/><source file='/base'/><backingStore/></backingStore>", nil},
		"another": {"<backingStore type='file'><format type='raw'/><source file='/etc/shadow'/><backingStore/></backingStore>", snapshot.ErrCorrupt},
		"format":  {"<backingStore type='file'><format type='qcow2'/><source file='/base'/><backingStore/></backingStore>", snapshot.ErrCorrupt},
	} {
		def := parsedDomain(t, "<domain><name>x</name><devices><disk type='file'><source file='/top'/><target dev='vda'/>"+test.backing+"</disk></devices></domain>")
		plan := []snapshot.DiskPlan{{Disk: snapshot.Disk{Name: "vda"}, Chain: []snapshot.Layer{{Path: "/top", Format: "qcow2"}, {Path: "/base", Format: "raw"}}}}
		if err := sameChains(def, plan); !errors.Is(err, test.want) || test.want == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func parsedDomain(t *testing.T, text string) *domainxml.Domain {
	t.Helper()
	def, err := domainxml.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return def
}
