package qemu

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// QEMU's user can rewrite the header of his delta: root must not write where it leads.
func TestRewrittenHeader(t *testing.T) {
	t.Parallel()
	r := taken(t, rawVM())
	d := r.plan.Disks[0]
	victim := filepath.Join(r.dir, "victim")
	must(t, os.WriteFile(victim, make([]byte, d.Size), 0o600))
	r.kill()
	for _, to := range [][]string{{"-b", victim, "-F", "raw"}, {"-b", d.Path, "-F", "qcow2"}, {"-b", ""}} {
		shell(t, "qemu-img", append(append([]string{"rebase", "-q", "-u", "-f", "qcow2"}, to...), d.Delta)...)
		err := r.merge()
		r.wantErr(err, snapshot.ErrCorrupt)
		r.hinted(err)
		if !allBytes(t, victim, 0) {
			t.Error("root has written to a file that the header named")
		}
		if len(r.left(d)) != 1 {
			t.Error("the delta is gone")
		}
	}
	shell(t, "qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-b", d.Path, "-F", "raw", d.Delta)
	r.merged()
}

func allBytes(t *testing.T, path string, want byte) bool {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return len(bytes.Trim(b, string([]byte{want}))) == 0
}

// images are small images in a folder of their own, without a VM.
type images struct {
	t   *testing.T
	dir string
}

func (i images) at(name string) string { return filepath.Join(i.dir, name) }

// raw makes an image of 1 MiB of zeroes.
func (i images) raw(name string) string {
	i.t.Helper()
	must(i.t, os.WriteFile(i.at(name), make([]byte, 1<<20), 0o600))
	return i.at(name)
}

func (i images) qcow2(name, below, format string) string {
	i.t.Helper()
	shell(i.t, tool(i.t, "qemu-img", "qemu-utils"), "create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", format, i.at(name), "1M")
	return i.at(name)
}

func (i images) write(path, fill string) {
	i.t.Helper()
	shell(i.t, tool(i.t, "qemu-io", "qemu-utils"), "-f", "qcow2", "-c", "write -q -P "+fill+" 0 1M", path)
}

// The header changes between the look at it and qemu-img: that is told where to write.
func TestCommitMindsNoHeader(t *testing.T) {
	t.Parallel()
	i := images{t, t.TempDir()}
	victim, golden := i.raw("victim"), i.raw("golden")
	base := i.qcow2("base", victim, "raw")
	d := snapshot.DiskPlan{Disk: snapshot.Disk{Path: base, Format: snapshot.FormatQcow2}, Delta: i.qcow2("delta, x", victim, "raw"),
		Chain: []snapshot.Layer{{Path: base, Format: snapshot.FormatQcow2}, {Path: golden, Format: snapshot.FormatRaw}}}
	i.write(d.Delta, "0x61")
	h := NewHost(nil, Options{QemuImg: "qemu-img"})
	defer h.Close()
	must(t, h.qemuImg(t.Context(), append([]string{"commit", "-q", "-d"}, onto(d, d.Chain[0])...)...))
	shell(t, "qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-b", golden, "-F", "raw", base)
	shell(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", base, i.at("out"))
	if !allBytes(t, i.at("out"), 0x61) || !allBytes(t, victim, 0) || !allBytes(t, golden, 0) {
		t.Error("the delta went elsewhere")
	}
}

func TestCheckpointRewrittenHeader(t *testing.T) {
	t.Parallel()
	i := images{t, t.TempDir()}
	golden := i.raw("golden")
	lower, other := i.qcow2("lower", golden, "raw"), i.qcow2("other", golden, "raw")
	upper := i.qcow2("upper", "other", "qcow2") // by its name alone, as lull does
	i.write(upper, "0x61")
	before, err := os.ReadFile(other)
	must(t, err)
	h := NewHost(nil, Options{QemuImg: "qemu-img"})
	defer h.Close()
	c := &checkpointing{Host: h}
	if err := c.writeDown(t.Context(), upper, lower); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("down: %v", err)
	}
	if err := c.writeUp(t.Context(), upper, lower, i.at("below")); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("up: %v", err)
	}
	if after, err := os.ReadFile(other); err != nil || !bytes.Equal(before, after) {
		t.Errorf("root has written to a file that the header named: %v", err)
	}
	if err := c.writeDown(t.Context(), upper, other); err != nil {
		t.Error(err)
	}
}
