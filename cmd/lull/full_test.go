package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// volume is a small file system of its own.
type volume struct {
	t   testing.TB
	dir string
}

// mount makes a file system at dir, with room enough until limit is called.
func mount(t testing.TB, dir string) *volume {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("lull-test", dir, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatalf("mount a tmpfs, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return &volume{t, dir}
}

func (v *volume) stat() (s unix.Statfs_t) {
	v.t.Helper()
	if err := unix.Statfs(v.dir, &s); err != nil {
		v.t.Error(err)
	}
	return s
}

// free is the room that is left, in bytes.
func (v *volume) free() int64 {
	s := v.stat()
	return int64(s.Bavail) * s.Bsize
}

// limit leaves that much room, in bytes.
func (v *volume) limit(free int64) {
	v.t.Helper()
	s := v.stat()
	size := int64(s.Blocks-s.Bfree)*s.Bsize + free
	if err := unix.Mount("lull-test", v.dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", size)); err != nil {
		v.t.Error(err)
	}
}

const mib = 1 << 20

// TestGuestFull: room runs out under a guest that is backed up, in each of the
// places where that can happen. Its raw disk has all the room that it can take;
// its other one grows as the guest writes.
func TestGuestFull(t *testing.T) {
	t.Parallel()
	l := newLab(t, guesttest.Options{Disks: []guesttest.Disk{{Format: snapshot.FormatRaw}, {}}})
	l.guest.Kill()
	var volumes []*volume
	for i, path := range l.guest.Disks {
		v := mount(t, filepath.Join(l.guest.Dir, fmt.Sprint("volume", i)))
		l.guest.Disks[i] = filepath.Join(v.dir, filepath.Base(path))
		l.copy(path, l.guest.Disks[i])
		volumes = append(volumes, v)
	}
	l.restart()
	l.under(t, "too little room to begin", func(l *lab) {
		l.minFree = 64 * mib
		volumes[0].limit(100 * mib)
		l.complains(exitFailed, []string{"reserve room for web", "are free for deltas in " + volumes[0].dir, "128 MiB are needed to begin", "no space left", "make room in " + volumes[0].dir}, "backup", "lab/web")
		volumes[0].limit(200 * mib)
		l.lull(exitDone, "backup", "lab/web")
		l.tidy()
	})
	l.under(t, "delta", func(l *lab) {
		l.minFree = -1 // it fills faster than anybody looks
		l.fill(0, volumes[0])
		l.complains(exitFailed, []string{"lab/web", "delta of disk disk0", volumes[0].dir, "no space left", "make room"}, "backup", "lab/web")
		volumes[0].limit(128 * mib)
		l.filled()
		l.lull(exitDone, "backup", "lab/web")
	})
	l.under(t, "delta and image", func(l *lab) {
		l.minFree = -1
		l.fill(1, volumes[1])
		words := []string{"lab/web", "merge web: disk disk1", "no space left", "make room in " + volumes[1].dir, "stays stopped"}
		l.complains(exitFailed, words, "backup", "lab/web")
		l.hear = nil
		l.complains(exitFailed, words, "backup", "lab/web")
		volumes[1].limit(128 * mib)
		l.lull(exitDone, "backup", "lab/web")
		l.filled()
	})
	l.under(t, "repository", fullRepository)
}

// fill lets the guest write more than fits into the delta of a disk, while that is
// read, until QEMU stops the guest.
func (l *lab) fill(disk int, v *volume) {
	l.whileReading(func() {
		v.limit(4 * mib)
		script := fmt.Sprintf("rm -f /run/dd; (dd if=/dev/urandom of=/data/%d/big bs=1M count=16 conv=fsync; echo $? >/run/dd) >/dev/null 2>&1 &", disk)
		if _, err := l.guest.Exec(l.ctx, "/bin/sh", "-c", script); err != nil {
			l.t.Error(err)
		}
		l.stalls(v)
	})
}

// filled proves that what was held up has gone on as if nothing had been.
func (l *lab) filled() {
	l.t.Helper()
	l.hear = nil
	l.inGuest("until [ -e /run/dd ]; do usleep 50000; done; [ $(cat /run/dd) = 0 ]")
	l.inGuest("! dmesg | grep -i 'i/o error'")
	l.tidy()
}

// stalls waits until a volume is full and the guest writes no more.
func (l *lab) stalls(v *volume) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := uint64(0); ; {
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			l.t.Error("the guest does not stall")
			return
		}
		acked, err := l.guest.Acked()
		if err != nil {
			l.t.Error(err)
			return
		}
		if acked == last && v.free() < mib {
			return
		}
		last = acked
	}
}

// fullRepository: there is no room for what the guest has written since.
func fullRepository(l *lab) {
	dir := filepath.Join(l.dir, "repo")
	store := mount(l.t, dir)
	l.lull(exitDone, "init")
	l.lull(exitDone, "backup", "lab/web")
	l.inGuest("dd if=/dev/urandom of=/data/0/more bs=1M count=24; sync")
	store.limit(4 * mib)
	l.complains(exitFailed, []string{"lab/web", "store is full", dir, "make room"}, "backup", "lab/web")
	l.tidy()
	l.proven()
	store.limit(256 * mib)
	l.lull(exitDone, "backup", "lab/web")
	l.proven()
	l.noPartial(dir)
	l.tidy()
}

// noPartial looks for what a failed upload left.
func (l *lab) noPartial(dir string) {
	l.t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.Contains(e.Name(), "tmp") {
			err = errors.New("left behind: " + path)
		}
		return err
	})
	if err != nil {
		l.t.Error(err)
	}
}

// TestFullTarget: the folder that is restored into fills up while it is written to,
// after there had been room enough. The restore says so in one line and leaves
// nothing there, least of all a file that looks whole; with room again it succeeds.
func TestFullTarget(t *testing.T) {
	t.Parallel()
	for _, format := range []snapshot.Format{snapshot.FormatRaw, snapshot.FormatQcow2} {
		t.Run(string(format), func(t *testing.T) { fullTarget(t, format) })
	}
}

func fullTarget(t *testing.T, format snapshot.Format) {
	b := newBench(t)
	if err := writeDisk(b.path("old.img"), 64*mib, 1); err != nil {
		t.Fatal(err)
	}
	b.lull(0, "init", "--repo", b.path("repo"))
	b.lull(0, "backup", "--repo", b.path("repo"), "--image", b.path("old.img"), "--quiet")

	target := mount(t, b.path("target"))
	var once sync.Once
	b.app.Observe = func(e agent.Event) {
		if e.Step == agent.StepWriting {
			once.Do(func() { target.limit(2 * mib) })
		}
	}
	restore := []string{"restore", "old", "--repo", b.path("repo"), "--to", b.path("target/vm"), "--disk-format", string(format), "--quiet"}
	_, stderr := b.lull(exitFailed, restore...)
	t.Logf("%s", strings.TrimSpace(stderr))
	for _, word := range []string{"lull: restore old@", "no space left", "make room in " + b.path("target/vm")} {
		if !strings.Contains(stderr, word) {
			t.Errorf("the line does not say %q", word)
		}
	}
	if strings.Count(stderr, "\n") != 1 {
		t.Errorf("not one line:\n%s", stderr)
	}
	if left, err := os.ReadDir(target.dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	target.limit(256 * mib)
	b.lull(0, restore...)
	restored := b.path("target/vm/old." + map[snapshot.Format]string{snapshot.FormatRaw: "img", snapshot.FormatQcow2: "img.qcow2"}[format])
	b.sameDisk(b.path("old.img"), snapshot.FormatRaw, restored, format)
}

// sameDisk holds two images against each other with QEMU's own eyes.
func (b *bench) sameDisk(a string, af snapshot.Format, c string, cf snapshot.Format) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), "qemu-img", "compare", "-f", string(af), "-F", string(cf), a, c)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Errorf("qemu-img compare (apt-get install qemu-utils): %v: %s", err, out)
	}
}
