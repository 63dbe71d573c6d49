// Package wipetest makes file systems whose device can be read past them: tests see what
// a removed file has left there. It needs root, and a kernel with loop devices.
package wipetest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Volume is a mounted file system on a device of its own.
type Volume struct {
	Dir    string // where it is mounted
	device string // a file
}

// kinds are the file systems, how they are made and how large they are at least.
func kinds() map[string]struct {
	args []string
	pkg  string
	size int64
} {
	type kind = struct {
		args []string
		pkg  string
		size int64
	}
	return map[string]kind{
		"ext4": {[]string{"mkfs.ext4", "-q", "-F", "-m", "0"}, "e2fsprogs", 64 << 20},
		"xfs":  {[]string{"mkfs.xfs", "-q", "-f"}, "xfsprogs", 320 << 20},
	}
}

// New makes a file system, "ext4" or "xfs". Where lull would refuse a folder of others',
// it belongs to root.
func New(t testing.TB, kind string) *Volume {
	t.Helper()
	base := t.TempDir()
	v := &Volume{Dir: filepath.Join(base, "mounted"), device: filepath.Join(base, "device")}
	k := kinds()[kind]
	err := errors.Join(os.Mkdir(v.Dir, 0o755), os.WriteFile(v.device, nil, 0o600), os.Truncate(v.device, k.size))
	if err != nil {
		t.Fatal(err)
	}
	run(t, k.pkg, append(k.args, v.device)...)
	run(t, "mount", "mount", "-o", "loop", v.device, v.Dir)
	t.Cleanup(func() {
		if err := unix.Unmount(v.Dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return v
}

func run(t testing.TB, pkg string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is needed: apt-get install %s", args[0], pkg)
	}
	if err != nil {
		t.Fatalf("%v (this test needs to be root): %v\n%s", args, err, out)
	}
}

// Holds counts a pattern on the device, once all that was written has got there.
func (v *Volume) Holds(t testing.TB, pattern []byte) (n int) {
	t.Helper()
	dir, err := os.Open(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(v.device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, len(pattern)+1<<20)
	for kept := 0; ; { // what could be the start of one that goes on in the next piece
		got, err := io.ReadFull(f, buf[kept:])
		seen := buf[:kept+got]
		n += bytes.Count(seen, pattern)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		kept = copy(buf, seen[len(seen)-len(pattern)+1:])
	}
}

// Fill is bytes of a pattern, once in each 512.
func Fill(pattern []byte, length int) []byte {
	b := make([]byte, length)
	for at := 0; at < length; at += 512 {
		copy(b[at:], pattern)
	}
	return b
}
