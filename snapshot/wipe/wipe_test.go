package wipe_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot/wipe"
	"github.com/lull-backup/lull/snapshot/wipe/wipetest"
)

var secret = []byte("the tenant's secret")

// TestRemove looks at the very device: what a plain removal leaves there a wipe does
// not, also where QEMU has asked for zeros or holes in between.
func TestRemove(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			v := wipetest.New(t, kind)
			path := filepath.Join(v.Dir, "delta")
			write := func() {
				t.Helper()
				if err := os.WriteFile(path, wipetest.Fill(secret, 5<<20+512), 0o600); err != nil {
					t.Fatal(err)
				}
				if n := v.Holds(t, secret); n < 10<<10 {
					t.Fatalf("%d blocks got to the device", n)
				}
			}
			write()
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			// As QEMU may write zeros, and what stays behind then. XFS gives the blocks away.
			if kind == "ext4" {
				if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 0, 1<<20); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if n := v.Holds(t, secret); n < 10<<10 {
				t.Errorf("zeros that are only noted have overwritten: %d", n)
			}
			if err := wipe.Remove(t.Context(), path, wipe.Dense); err != nil {
				t.Fatal(err)
			}
			if n := v.Holds(t, secret); n != 0 {
				t.Errorf("%d blocks are left on the device", n)
			}
			write()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if n := v.Holds(t, secret); n == 0 {
				t.Error("a plain removal leaves nothing: the test sees nothing")
			}
		})
	}
}

// A sparse file of a size that no device has is wiped where it holds something.
func TestSparse(t *testing.T) {
	v := wipetest.New(t, "ext4")
	path := filepath.Join(v.Dir, "restored.partial")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 100 << 20, 8 << 30} {
		if _, err := f.WriteAt(wipetest.Fill(secret, 64<<10), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(9<<30), f.Close()); err != nil {
		t.Fatal(err)
	}
	if n := v.Holds(t, secret); n != 3*128 {
		t.Fatalf("%d blocks got to the device", n)
	}
	if err := wipe.Remove(t.Context(), path, wipe.Sparse); err != nil {
		t.Fatal(err)
	}
	if n := v.Holds(t, secret); n != 0 {
		t.Errorf("%d blocks are left on the device", n)
	}
}

// An interrupted wipe has left less than there was, and is gone on with.
func TestInterrupted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "delta")
	if err := os.WriteFile(path, wipetest.Fill(secret, 80<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	over := &after{Context: t.Context(), looks: 2}
	if err := wipe.Remove(over, path, wipe.Dense); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 32<<20 {
		t.Errorf("left: %v, %v", info.Size(), err)
	}
	for range 2 {
		if err := wipe.Remove(t.Context(), path, wipe.Dense); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}

// after is a context that ends after so many looks at it.
type after struct {
	context.Context
	looks int
}

func (a *after) Err() error {
	if a.looks--; a.looks < 0 {
		return context.Canceled
	}
	return nil
}

// A full file system does not keep a file from being wiped, holes or not.
func TestFull(t *testing.T) {
	v := wipetest.New(t, "ext4")
	path := filepath.Join(v.Dir, "delta")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(wipetest.Fill(secret, 1<<20), 20<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(v.Dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for b := make([]byte, 64<<10); err == nil; {
		_, err = filler.Write(b)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := wipe.Remove(t.Context(), path, wipe.Dense); err != nil {
		t.Fatal(err)
	}
	if n := v.Holds(t, secret); n != 0 {
		t.Errorf("%d blocks are left on the device", n)
	}
}

// What has another name is somebody's, and what a link leads to is, too.
func TestNotOurs(t *testing.T) {
	dir := t.TempDir()
	theirs, ours, link := filepath.Join(dir, "theirs"), filepath.Join(dir, "ours"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(theirs, secret, 0o600), os.Link(theirs, ours), os.Symlink(theirs, link)); err != nil {
		t.Fatal(err)
	}
	if err := wipe.Remove(t.Context(), ours, wipe.Dense); err != nil {
		t.Error(err)
	}
	if err := wipe.Remove(t.Context(), link, wipe.Dense); err == nil {
		t.Error("a link is followed")
	}
	if b, err := os.ReadFile(theirs); err != nil || string(b) != string(secret) {
		t.Errorf("theirs: %q, %v", b, err)
	}
}

// Where overwriting is in vain it is said.
func TestDoubt(t *testing.T) {
	base := wipetest.New(t, "ext4").Dir
	if doubt, err := wipe.Doubt(base); err != nil || doubt != "" {
		t.Errorf("ext4: %q, %v", doubt, err)
	}
	for _, dir := range []string{"lower", "upper", "work", "seen"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	over := filepath.Join(base, "seen")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", base)
	if err := unix.Mount("overlay", over, "overlay", 0, options); err != nil {
		t.Fatalf("mount an overlay (this test needs to be root): %v", err)
	}
	defer func() {
		if err := unix.Unmount(over, 0); err != nil {
			t.Error(err)
		}
	}()
	if doubt, err := wipe.Doubt(over); err != nil || doubt == "" {
		t.Errorf("overlay: %q, %v", doubt, err)
	}
}
