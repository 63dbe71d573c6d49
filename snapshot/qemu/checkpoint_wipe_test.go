package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/wipe/wipetest"
)

// newWiped is a VM that runs, whose files are all on a device of their own, and to be wiped.
func newWiped(t *testing.T, s shape) (*lifeline, *wipetest.Volume) {
	t.Helper()
	volume := wipetest.New(t, "xfs") // which is large enough for memory
	l := newLifeline(t, s, func(v *testVM) {
		v.wipe, v.free = true, 1
		disks := filepath.Join(v.dir, "disks")
		if err := unix.Mount(volume.Dir, disks, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(disks, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	})
	l.ask("cont", nil, nil)
	return l, volume
}

// says writes something to the disk that nothing else holds.
func (l *lifeline) says(secret byte) {
	l.t.Helper()
	for disk := range l.Want {
		if err := l.write(disk, 1<<20, 256<<10, secret); err != nil {
			l.t.Fatalf("write as the guest: %v", err)
		}
		copy(l.Want[disk][1<<20:], bytes.Repeat([]byte{secret}, 256<<10))
	}
}

// wantKnown proves which secrets are on a device, and that each is in a file.
func wantKnown(t *testing.T, v *wipetest.Volume, when string, want map[byte]bool) {
	t.Helper()
	for secret, there := range want {
		block := bytes.Repeat([]byte{secret}, 512)
		n := v.Holds(t, block)
		if n > 0 != there {
			t.Errorf("%s: %d blocks of %#x are on the device", when, n, secret)
		}
		if in := inFiles(t, v.Dir, block); n > in {
			t.Errorf("%s: %d blocks of %#x are on the device, and %d in files", when, n, secret, in)
		}
	}
}

// inFiles counts a pattern in the files of a folder, by whatever names they have.
func inFiles(t *testing.T, dir string, pattern []byte) (n int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var seen []os.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if !info.Mode().IsRegular() || slices.ContainsFunc(seen, func(s os.FileInfo) bool { return os.SameFile(s, info) }) {
			continue
		}
		seen = append(seen, info)
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		n += bytes.Count(b, pattern)
	}
	return n
}

// Nothing stays on the device of what a checkpoint had that is deleted, nor of what the VM had
// that goes back: neither in images, nor in memory, nor what the guest has thrown away.
func TestCheckpointWiped(t *testing.T) {
	t.Parallel()
	l, v := newWiped(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1})
	a := l.Create(snapshot.NewCheckpoint{Memory: true})
	memory := l.memoryOf(a)
	if v.Holds(t, memory) == 0 {
		t.Fatal("the memory is not on the device")
	}
	l.says(0xa1)
	b := l.Create(snapshot.NewCheckpoint{})
	l.says(0xa2)
	wantKnown(t, v, "with two checkpoints", map[byte]bool{0xa1: true, 0xa2: true})
	l.Apply(a, false)
	wantKnown(t, v, "gone back", map[byte]bool{0xa1: true, 0xa2: false})
	l.says(0xa3)
	l.Delete(b, false)
	l.Right()
	wantKnown(t, v, "without what the VM is not upon", map[byte]bool{0xa1: false, 0xa3: true})

	c := l.Create(snapshot.NewCheckpoint{})
	l.Apply(a, true)
	l.says(0xa4)
	d := l.Create(snapshot.NewCheckpoint{})
	l.Delete(a, false) // two rest upon it
	l.Right()
	if n := v.Holds(t, memory); n > 0 {
		t.Errorf("the memory of what is deleted is in %d places on the device", n)
	}
	if tree := l.Tree().List; len(tree) != 3 || !tree[0].Deleted || tree[0].Memory {
		t.Errorf("the tree: %+v", tree)
	}
	l.Delete(c, false) // with it the first goes
	l.Right()
	wantKnown(t, v, "with one of three", map[byte]bool{0xa3: false, 0xa4: true})

	l.says(0xa5)
	for disk := range l.Want {
		if err := l.io(disk, "write -z -u 1M 256K"); err != nil { // as a guest that discards
			t.Fatal(err)
		}
		clear(l.Want[disk][1<<20 : 1<<20+256<<10])
	}
	wantKnown(t, v, "thrown away", map[byte]bool{0xa4: true, 0xa5: true})
	l.Off()
	l.Delete(d, false) // the own into the first
	wantKnown(t, v, "written down", map[byte]bool{0xa4: true, 0xa5: false})
	l.Boot()
	l.Right()
	l.says(0xa6) // in the place of what is the disk's own
	l.Right()
	wantKnown(t, v, "alone", map[byte]bool{0xa1: false, 0xa2: false, 0xa3: false, 0xa4: false, 0xa5: false})
}

// memoryOf is what tells the memory of a checkpoint from any other.
func (l *lifeline) memoryOf(id string) []byte {
	l.t.Helper()
	for disk := range l.Want {
		b, err := os.ReadFile(beside(l.own(disk), id, memoryEnding))
		if at := bytes.Index(b, []byte("QEVM")); err == nil && at >= 0 {
			return slices.Clone(b[at : at+48])
		}
	}
	l.t.Fatalf("no memory of %s", id)
	return nil
}

// What a process has open is not wiped under it, and it stays on record until it can be; nor
// does an end in the middle of a wipe leave anything.
func TestCheckpointWipedLater(t *testing.T) {
	t.Parallel()
	l, v := newWiped(t, shape{format: snapshot.FormatQcow2, drive: true, bus: "virtio", disks: 1})
	a := l.Create(snapshot.NewCheckpoint{})
	l.says(0xb1)
	b := l.Create(snapshot.NewCheckpoint{})
	l.says(0xb2)
	l.Apply(a, true)
	wantKnown(t, v, "gone back", map[byte]bool{0xb1: true, 0xb2: false})

	read := l.reads(beside(l.disks[0], b, layerEnding))
	l.Delete(b, false)
	l.Right()
	wantKnown(t, v, "while it is read", map[byte]bool{0xb1: true})
	if found, err := l.host.RecoverCheckpoints(l.ctx, "web"); found || err != nil {
		t.Errorf("while it is read: %v, %v", found, err)
	}
	read()
	ctx, cancel := context.WithCancel(l.ctx)
	l.host.opt.Observe = func(_, step string) {
		if step == "sweep" {
			cancel()
		}
	}
	if _, err := l.host.RecoverCheckpoints(ctx, "web"); !errors.Is(err, context.Canceled) {
		t.Errorf("cut off in the wipe: %v", err)
	}
	l.host.opt.Observe = nil
	wantKnown(t, v, "cut off in the wipe", map[byte]bool{0xb1: true})
	l.Recovers("the wipe was cut off")
	l.Right()
	wantKnown(t, v, "recovered", map[byte]bool{0xb1: false})

	l.says(0xb3)
	own := l.disks[0] + ".away"
	if err := os.Rename(l.disks[0], own); err != nil { // the file system is elsewhere
		t.Fatal(err)
	}
	l.junkIs(own + ".none")
	if _, err := l.host.RecoverCheckpoints(l.ctx, "web"); err != nil {
		t.Errorf("without its disk: %v", err)
	}
	if tree, err := checkpoint.Load(l.host.treePath("web"), "web"); err != nil || !slices.Contains(tree.Junk, own+".none") {
		t.Errorf("without its disk %v is on record, %v", tree.Junk, err)
	}
	if err := os.Rename(own, l.disks[0]); err != nil {
		t.Fatal(err)
	}
	l.Recovers("it is there again")
	l.Right()

	read = l.reads(l.disks[0])
	l.Apply(a, true) // another image takes its place
	l.Right()
	wantKnown(t, v, "replaced while it is read", map[byte]bool{0xb3: true})
	read()
	l.Recovers("it is read no more")
	l.Right()
	wantKnown(t, v, "read no more", map[byte]bool{0xb3: false})
}

// reads has a file open until it is told to close it.
func (l *lifeline) reads(path string) (end func()) {
	l.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = f.Close() })
	return func() {
		if err := f.Close(); err != nil {
			l.t.Fatal(err)
		}
	}
}

// junkIs puts a file on record that nothing needs any more.
func (l *lifeline) junkIs(path string) {
	l.t.Helper()
	err := l.host.onTree(l.ctx, "web", func(c *checkpointing) error {
		c.urgent = true // which leaves it there
		c.tree.Junk = append(c.tree.Junk, path)
		return c.save()
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// What the firmware had written before a VM went back is wiped with the rest.
func TestCheckpointWipedVariables(t *testing.T) {
	t.Parallel()
	v := wipetest.New(t, "ext4")
	secret := bytes.Repeat([]byte{0xc1}, 512)
	f := checkpoint.File{File: snapshot.File{Path: filepath.Join(v.Dir, "vars.fd")}, Kept: filepath.Join(v.Dir, "kept")}
	put(t, f.Path, wipetest.Fill(secret, 64<<10))
	put(t, f.Kept, []byte("as it was"))
	h := NewHost([]VM{{Name: "web", QMP: filepath.Join(v.Dir, "none"), Wipe: true}}, Options{CheckpointDir: t.TempDir()})
	defer h.Close()
	if n := v.Holds(t, secret); n == 0 {
		t.Fatal("nothing got to the device")
	}
	for range 2 { // it can be repeated
		err := h.onTree(t.Context(), "web", func(c *checkpointing) error {
			c.tree.Op = &checkpoint.Op{Kind: checkpoint.Apply, Run: "01234567"}
			if err := c.putBack(f); err != nil {
				return err
			}
			return c.end()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(f.Path); err != nil || string(b) != "as it was" {
		t.Errorf("the variables: %q, %v", b, err)
	}
	if n := v.Holds(t, secret); n > 0 {
		t.Errorf("%d blocks of the variables are on the device", n)
	}
	entries, err := os.ReadDir(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), "lull") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}
