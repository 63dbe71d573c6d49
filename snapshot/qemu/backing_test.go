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

// dataFile makes a qcow2 image that keeps its data in another file, whose name alone is in
// its header.
func (i images) dataFile(name, data string, more ...string) string {
	i.t.Helper()
	args := append([]string{"create", "-q", "-f", "qcow2", "-o", "data_file=" + i.at(name+".data")}, more...)
	shell(i.t, tool(i.t, "qemu-img", "qemu-utils"), append(args, i.at(name), "1M")...)
	shell(i.t, "qemu-img", "amend", "-q", "-f", "qcow2", "-o", "data_file="+data, i.at(name))
	return i.at(name)
}

// The header of an image may name a file that holds its data: root neither writes to that
// nor reads it.
func TestDataFileIsRefused(t *testing.T) {
	t.Parallel()
	i := images{t, t.TempDir()}
	victim, plain := i.at("victim"), i.raw("plain")
	must(t, os.WriteFile(victim, bytes.Repeat([]byte("v"), 1<<20), 0o600))
	h := NewHost(nil, Options{QemuImg: "qemu-img"})
	defer h.Close()
	commit := func(delta, base string, more ...snapshot.Layer) error {
		return h.commitFile(t.Context(), snapshot.DiskPlan{
			Disk: snapshot.Disk{Path: base, Format: snapshot.FormatQcow2}, Delta: delta,
			Chain: append([]snapshot.Layer{{Path: base, Format: snapshot.FormatQcow2}}, more...),
		})
	}
	hostile := i.dataFile("base", victim)
	written := i.qcow2("delta", hostile, "qcow2")
	i.write(written, "0x61")
	honest := i.qcow2("honest", plain, "raw")
	reading := i.dataFile("reading", victim, "-u", "-b", honest, "-F", "qcow2")
	upon := i.qcow2("upon", hostile, "qcow2")
	top := i.qcow2("top", upon, "qcow2")
	i.write(top, "0x61")
	c := &checkpointing{Host: h, line: &line{}}
	for name, do := range map[string]func() error{
		"an image that is written to": func() error { return commit(written, hostile) },
		"a delta that is read":        func() error { return commit(reading, honest) },
		"below what is written to":    func() error { return commit(top, upon, snapshot.Layer{Path: hostile, Format: snapshot.FormatQcow2}) },
		"a checkpoint":                func() error { return c.writeDown(t.Context(), written, hostile) },
		"between checkpoints":         func() error { return c.writeUp(t.Context(), written, hostile, honest) },
		"below a checkpoint":          func() error { return c.writeUp(t.Context(), top, upon, hostile) },
		"below a new image":           func() error { return h.makeImage(t.Context(), imageOptions{path: i.at("new"), backing: hostile}) },
	} {
		if err := do(); !errors.Is(err, snapshot.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !allBytes(t, victim, 'v') {
		t.Error("root has written to a file that the header named")
	}
	if there, err := exists(i.at("new")); there || err != nil {
		t.Errorf("an image was made: %v", err)
	}
}

// A new image is whole before anybody else may open it, and nothing stays beside it.
func TestEmptyImage(t *testing.T) {
	t.Parallel()
	i := images{t, t.TempDir()}
	golden := i.raw("golden")
	lower := i.qcow2("lower", golden, "raw")
	h := NewHost(nil, Options{QemuImg: "qemu-img"})
	defer h.Close()
	must(t, h.makeImage(t.Context(), imageOptions{path: i.at("upper"), backing: lower, like: lower}))
	if err := restsOn(i.at("upper"), snapshot.Layer{Path: lower, Format: snapshot.FormatQcow2}); err != nil {
		t.Error(err)
	}
	shell(t, "qemu-img", "check", "-q", "-f", "qcow2", i.at("upper"))
	shell(t, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", i.at("upper"), golden)
	if _, err := h.emptyImage(t.Context(), golden, snapshot.FormatRaw, 32<<40); err != nil {
		t.Errorf("for a disk of 32 TiB: %v", err)
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
	c := &checkpointing{Host: h, line: &line{}}
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
