package qemu

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// putInPlace moves an image away under a VM and puts a copy in its place.
func (v *testVM) putInPlace(image string) (away string) {
	v.t.Helper()
	away = image + ".away"
	if err := os.Rename(image, away); err != nil {
		v.t.Fatal(err)
	}
	shell(v.t, "cp", away, image)
	return away
}

// What lies at the image's path is not what QEMU has open: a delta merged after a
// crash would go into the wrong file.
func TestMovedImage(t *testing.T) {
	v := newVM(t, qcow2VM())
	v.putInPlace(v.disks[0])
	p, err := v.host().Plan(t.Context(), "web", "run")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Disks) != 1 || p.Disks[0].Path != v.disks[1] {
		t.Errorf("planned: %+v", p.Disks)
	}
	for _, x := range p.Excluded {
		if x.Disk.Path == v.disks[0] && !x.Expected && strings.Contains(x.Reason, "moved") {
			return
		}
	}
	t.Errorf("left out: %+v", p.Excluded)
}

// A disk that was restored while a merge was half done is not merged into.
func TestOtherImageInPlace(t *testing.T) {
	r := taken(t, rawVM())
	r.startCommit(100_000)
	r.kill()
	d := r.plan.Disks[0]
	away := r.putInPlace(d.Path)
	err := r.merge()
	r.wantErr(err, snapshot.ErrDiverged)
	r.hinted(err)
	if len(r.left(d)) != 1 {
		t.Error("the delta is gone")
	}
	if err := os.Rename(away, d.Path); err != nil {
		t.Fatal(err)
	}
	r.age(d.Path, d.Delta, 0) // as QEMU left them, give or take a moment
	r.merged()
}

func TestLinkedImage(t *testing.T) {
	r := newVM(t, rawVM())
	r.kill()
	real, link := r.disks[0], filepath.Join(r.dir, "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	r.start([]string{link})
	h := r.host()
	p, err := h.Plan(t.Context(), "web", "run")
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Disks[0]; got.Path != link || filepath.Dir(got.Delta) != filepath.Dir(real) {
		t.Errorf("image %s, delta %s", got.Path, got.Delta)
	}
}

func TestMigrating(t *testing.T) {
	v := newVM(t, rawVM())
	v.kill()
	v.startWith(append(v.arguments(v.disks, v.shape.format), "-incoming", "defer"))
	if _, err := v.host().Plan(t.Context(), "web", "run"); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("got %v", err)
	}
}

// A VM whose kernel was named relative to a folder that nobody knows is backed up
// all the same, and lull's own folder is not taken for it.
func TestLostKernel(t *testing.T) {
	files := []snapshot.File{{Role: snapshot.RoleKernel, Path: "place_test.go"}}
	f := &frozen{plan: snapshot.Plan{Files: files}}
	if _, err := f.File(t.Context(), "place_test.go"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestScriptMindsNoCDPATH(t *testing.T) {
	base := t.TempDir()
	for _, dir := range []string{"vm", "trap/vm"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	define(t, filepath.Join(base, "vm"), snapshot.Restored{Name: "web"})
	cmd := exec.CommandContext(t.Context(), "sh", "vm/"+scriptName)
	cmd.Dir = base
	pwd := filepath.Join(base, "pwd")
	if err := os.WriteFile(pwd, []byte("#!/bin/sh\npwd\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "CDPATH="+base+"/trap", "LULL_QEMU="+pwd)
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != filepath.Join(base, "vm") {
		t.Errorf("ran in %q, %v", out, err)
	}
}

// A file that is in the way of a delta is not lull's to remove.
func TestDeltaExists(t *testing.T) {
	r := prepared(t, qcow2VM())
	if err := r.merge(); err != nil {
		t.Fatal(err)
	}
	precious := r.plan.Disks[1].Delta
	r.write0(precious, "someone's own")
	r.wantErr(r.host.Prepare(r.ctx, r.plan), snapshot.ErrExists)
	if err := r.merge(); err == nil {
		t.Error("Merge is content with a file that is no delta")
	}
	if b, err := os.ReadFile(precious); err != nil || string(b) != "someone's own" {
		t.Errorf("the file in the way: %q, %v", b, err)
	}
}
