package qemu

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/nbd"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// The key of encrypted disks, which must be nowhere else.
const diskKey = "correct-horse-battery"

// makeLUKS encrypts a disk.
func (v *testVM) makeLUKS(plain, path string) string {
	v.t.Helper()
	key := "secret,id=key,data=" + diskKey
	options := []string{"convert", "--object", key, "-f", "raw", "-O", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10,encrypt.hash-alg=" + deltaHash, plain, path}
	if v.shape.format == snapshot.FormatRaw {
		options = []string{"convert", "--object", key, "-f", "raw", "-O", "luks", "-o", "key-secret=key,iter-time=10,hash-alg=" + deltaHash, plain, path}
	}
	if out, err := exec.CommandContext(v.t.Context(), "qemu-img", options...).CombinedOutput(); err != nil {
		v.t.Fatalf("qemu-img (apt-get install qemu-utils): %v\n%s", err, out)
	}
	return path
}

// driver is the block driver of a disk's image.
func (v *testVM) driver(format snapshot.Format) string {
	if v.shape.luks && format == snapshot.FormatRaw {
		return "luks"
	}
	return string(format)
}

// keyed are the options with which an encrypted image is opened.
func (v *testVM) keyed() string {
	switch {
	case !v.shape.luks:
		return ""
	case v.shape.format == snapshot.FormatRaw:
		return ",key-secret=key0"
	}
	return ",encrypt.format=luks,encrypt.key-secret=key0"
}

// encrypted is a run of a VM whose disk is encrypted; log takes what lull says.
func encrypted(t *testing.T, format snapshot.Format, log *bytes.Buffer) *run {
	t.Helper()
	s := shape{format: format, bus: "virtio", disks: 1, luks: true}
	v := newVM(t, s)
	o := v.options()
	o.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r := &run{testVM: v, t: t, ctx: t.Context(), host: NewHost([]VM{{Name: "web", QMP: v.dir + "/qmp"}}, o), want: map[string][]byte{}}
	t.Cleanup(func() { r.host.Close() })
	var err error
	r.plan, err = r.host.Plan(r.ctx, "web", "run")
	must(t, err)
	if len(r.plan.Disks) != 1 || r.plan.Disks[0].Key != "key0" {
		t.Fatalf("planned: %+v, left out: %+v, warnings: %q", r.plan.Disks, r.plan.Excluded, r.plan.Warnings)
	}
	r.want["disk0"] = r.decrypted()
	must(t, r.host.Prepare(r.ctx, r.plan))
	return r
}

// decrypted is what the guest sees of its disk, through QEMU.
func (r *run) decrypted() []byte {
	r.t.Helper()
	socket := r.dir + "/look"
	r.ask("nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": socket}}}, nil)
	r.ask("block-export-add", args{"type": "nbd", "id": "look", "node-name": r.blocks()[0].Inserted.Node, "name": "look"}, nil)
	out := r.dir + "/decrypted"
	shell(r.t, "qemu-img", "convert", "-f", "raw", "-O", "raw", "nbd+unix:///look?socket="+socket, out)
	r.ask("nbd-server-stop", nil, nil)
	eventually(r.t, "the end of the look", func() bool {
		var list []export
		r.ask("query-block-exports", nil, &list)
		return len(list) == 0
	})
	b, err := os.ReadFile(out)
	must(r.t, err)
	return b
}

// secretless fails where the key, or what it protects, is in sight.
func (r *run) secretless(log *bytes.Buffer) {
	r.t.Helper()
	text, err := json.Marshal(r.plan)
	must(r.t, err)
	for what, b := range map[string][]byte{"plan": text, "log": log.Bytes()} {
		if bytes.Contains(b, []byte(diskKey)) {
			r.t.Errorf("the %s holds the key: %s", what, b)
		}
	}
	written := bytes.Repeat([]byte{0x55}, 4096)
	for _, path := range []string{r.plan.Disks[0].Path, r.plan.Disks[0].Delta} {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, written) {
			r.t.Errorf("%s holds what the guest wrote in the clear", filepath.Base(path))
		}
	}
}

// An encrypted disk is read from QEMU as its guest sees it, and its delta is encrypted.
// With QEMU gone only who has the key can merge, by the command that lull names.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	for _, format := range []snapshot.Format{snapshot.FormatQcow2, snapshot.FormatRaw} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			r := encrypted(t, format, &log)
			r.live(&log)
			var err error
			r.plan, err = r.host.Plan(r.ctx, "web", "next")
			must(t, err)
			must(t, r.host.Prepare(r.ctx, r.plan))
			r.take()
			r.guestWrites("disk0", 2<<20, 0x55)
			r.kill()
			r.die()
			r.refusedOr(snapshot.ErrMergePending)
			if kinds := r.kinds(&r.plan); !slices.Equal(kinds, []snapshot.FindingKind{snapshot.FindingRefused}) {
				t.Errorf("found: %v", kinds)
			}
			_, command, _ := strings.Cut(r.hinted(r.merge()), ": ")
			command, _, _ = strings.Cut(command, ", where")
			file := r.dir + "/key file"
			must(t, os.WriteFile(file, []byte(diskKey), 0o600))
			shell(t, "sh", "-ec", strings.Replace(command, "file=KEYFILE", "file='"+file+"'", 1))
			must(t, r.merge())
			r.start(r.disks)
			r.holds(&log)
		})
	}
}

// live is a run with QEMU there all the time.
func (r *run) live(log *bytes.Buffer) {
	r.t.Helper()
	frozen := bytes.Clone(r.want["disk0"])
	r.take()
	r.guestWrites("disk0", 0, 0x55)
	f := r.reads()
	src, err := f.Disk(r.ctx, "disk0")
	must(r.t, err)
	if _, served := src.(*nbd.Client); !served {
		r.t.Errorf("read by %T", src)
	}
	if !bytes.Equal(snapshottest.ReadAll(r.ctx, r.t, src), frozen) {
		r.t.Error("what is read is not what the guest saw")
	}
	r.secretless(log)
	must(r.t, f.Close())
	must(r.t, r.merge())
	r.holds(log)
}

// holds proves that the disk holds what the guest wrote, and nothing else tells of it.
func (r *run) holds(log *bytes.Buffer) {
	r.t.Helper()
	if left := r.left(r.plan.Disks[0]); len(left) > 0 {
		r.t.Errorf("left: %v", left)
	}
	if !bytes.Equal(r.decrypted(), r.want["disk0"]) {
		r.t.Error("the disk does not hold what the guest wrote")
	}
	r.secretless(log)
}

func TestWithoutSecrets(t *testing.T) {
	in := []string{"qemu", "-object", "secret,id=a,data=hush", "-object", `{"qom-type":"secret","id":"b","data":"hush"}`, "-object", "secret,id=c,file=/k", "-object", "iothread,id=io0", "-S"}
	out := withoutSecrets(in)
	if text := strings.Join(out, " "); strings.Contains(text, "hush") || !strings.Contains(text, "id=a") || !strings.Contains(text, "file=/k") || !strings.Contains(text, "iothread,id=io0 -S") {
		t.Errorf("%q", out)
	}
	if !strings.Contains(strings.Join(in, " "), "hush") {
		t.Error("it changed what it was given")
	}
}
