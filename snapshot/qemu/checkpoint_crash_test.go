package qemu

import (
	"errors"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// powerLoss ends QEMU too, and starts it anew from the paths of its disks: before lull is
// started again, or after.
func (l *lifeline) powerLoss(step string, vmFirst bool) {
	l.t.Helper()
	l.kill()
	if vmFirst {
		l.start(l.disks)
		_, err := l.host.RecoverCheckpoints(l.ctx, "web")
		if errors.Is(err, snapshot.ErrDiverged) { // said: stop the VM
			l.kill()
			l.Recovers(step)
			l.start(l.disks)
			return
		}
	}
	l.Recovers(step)
	if !vmFirst {
		l.start(l.disks)
	}
}

// inMemoryWiped is inMemory of a VM whose files are wiped, if they are.
func inMemoryWiped(wiped bool) func(*testVM) {
	return func(v *testVM) {
		inMemory(v)
		v.wipe = wiped
	}
}

// lull dies at every step of every operation, and QEMU goes on; one that runs does so all the
// time, also with its memory kept or brought back.
func TestCheckpointKilled(t *testing.T) {
	t.Parallel()
	snapshottest.RunCheckpointerCutOff(t, nil, func(t *testing.T, operation string) *snapshottest.Lifeline {
		t.Parallel()
		l := newLifeline(t, shape{format: snapshot.FormatQcow2, drive: true, bus: "virtio", disks: 2}, inMemoryWiped(operation != "apply with memory"))
		if !strings.HasSuffix(operation, "with memory") {
			return l.Lifeline
		}
		l.goes = true
		l.ask("cont", nil, nil)
		loads := l.loads()
		l.fix.Died = func(step string, nth int) {
			if nth%2 == 0 { // who stands by comes first
				if err := l.host.ReleaseCheckpoint(l.ctx, "web"); err != nil {
					t.Fatalf("release after death at %s: %v", step, err)
				}
				l.named("after death at " + step)
			} else {
				l.Recovers(step)
			}
			if s := l.state(); s != "running" {
				t.Errorf("after death at %s the VM is %s", step, s)
			}
			l.Recovers(step)
			if n := loads(); n > 1 {
				t.Errorf("after death at %s the memory is loaded %d times", step, n)
			}
		}
		return l.Lifeline
	})
}

// The whole host dies at every step, and the VM is started from the paths that its disks
// always had.
func TestCheckpointPowerLoss(t *testing.T) {
	t.Parallel()
	all := map[string][]string{"create": nil, "apply": nil, "delete the newest": nil, "delete the middle": nil, "delete the first": nil, "delete the only": nil}
	snapshottest.RunCheckpointerCutOff(t, all, func(t *testing.T, operation string) *snapshottest.Lifeline {
		t.Parallel()
		wiped := operation == "apply" || operation == "delete the only" // what puts one image in the place of another
		l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 2}, inMemoryWiped(wiped))
		l.fix.Died = func(step string, nth int) { l.powerLoss(step, nth%2 == 0) }
		return l.Lifeline
	})
}
