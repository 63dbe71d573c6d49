package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// badFolder is a way for the folder of a state to go bad, until it is mended.
type badFolder func(t *testing.T, dir string) (mend func())

// deadFolder answers every question about what is in it with an error.
func deadFolder(t *testing.T, dir string) (mend func()) {
	t.Helper()
	away := dir + ".away"
	must(t, errors.Join(os.Rename(dir, away), os.WriteFile(dir, nil, 0o600)))
	return func() {
		t.Helper()
		must(t, errors.Join(os.Remove(dir), os.Rename(away, dir)))
	}
}

// hungFolder answers no question: it is of a FUSE file system that nobody serves.
func hungFolder(t *testing.T, dir string) (mend func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/fuse (this test needs FUSE in the kernel): %v", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	if err := unix.Mount("hung", dir, "fuse", 0, options); err != nil {
		_ = unix.Close(fd)
		t.Fatalf("mount a FUSE (this test needs to be root): %v", err)
	}
	mended := false
	mend = func() {
		if !mended { // who waits gets to know when the file is closed
			mended = true
			must(t, errors.Join(unix.Close(fd), unix.Unmount(dir, unix.MNT_DETACH)))
		}
	}
	t.Cleanup(mend)
	return mend
}

// A VM that stands still goes on although the disk with its marker has died, or hangs: under
// the hands of the run itself, and of the dead-man.
func TestMarkerUnknown(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]badFolder{"dead": deadFolder, "hangs": hungFolder} {
		for how, fail := range map[string]func(*run, func()) (end func()){
			"TakeSaved": (*run).savesInto, "Resume": (*run).diesStopped,
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				r := savableBy(t, savedVM(), "standing")
				dir := filepath.Join(r.dir, "states")
				must(t, os.Mkdir(dir, 0o700))
				r.plan.Saved.Path = filepath.Join(dir, filepath.Base(r.plan.Saved.Path))
				var mend func()
				end := fail(r, func() { mend = spoil(t, dir) })
				eventually(t, "VM that goes on", func() bool { return r.runState() == "running" })
				mend()
				end()
				r.untuned()
				r.unsaved()
			})
		}
	}
}

// savesInto is a run whose disk for the state goes bad as soon as the VM is stopped.
func (r *run) savesInto(bad func()) (end func()) {
	frozen, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := r.host.TakeSaved(r.ctx, r.plan, func(m snapshot.Moment) {
			if m == snapshot.MomentFrozen {
				close(frozen)
				<-goOn
			}
		})
		ended <- err
	}()
	<-frozen
	bad()
	close(goOn)
	return func() {
		r.t.Helper()
		if err := <-ended; err != nil { // else the folder was mended in time
			r.wantErr(err, snapshot.ErrNotSaved)
		}
	}
}

// diesStopped is a run that has died while the VM stood still.
func (r *run) diesStopped(bad func()) (end func()) {
	r.t.Helper()
	marker, err := createState(r.plan.Saved)
	must(r.t, err)
	must(r.t, marker.Close())
	r.ask("stop", nil, nil)
	r.take()
	bad()
	must(r.t, r.host.Resume(r.ctx, r.plan))
	return func() {}
}
