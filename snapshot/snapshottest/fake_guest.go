package snapshottest

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/snapshot"
)

// FakeGuest is the inside of a VM: a few files, programs that a test supplies,
// and file systems that freeze. It implements snapshot.Guest.
type FakeGuest struct {
	fake   *Fake
	vm     string
	frozen int // file systems

	// Set before use.
	About       snapshot.GuestInfo
	MountPoints []string // the file systems it has
	Programs    func(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error)

	files map[string][]byte
}

var _ snapshot.Guest = (*FakeGuest)(nil)

func newFakeGuest(f *Fake, vm string) *FakeGuest {
	return &FakeGuest{fake: f, vm: vm, files: map[string][]byte{}, MountPoints: []string{"/", "/data"},
		About: snapshot.GuestInfo{AgentVersion: "7.2.22", OS: "debian", Hostname: vm}}
}

// running runs fn unless a fault strikes or the guest is not there. frozenToo
// says that the call is allowed while file systems are frozen.
func (g *FakeGuest) running(ctx context.Context, call string, frozenToo bool, fn func() error) error {
	return g.fake.lock(ctx, g.vm, call, func(v *fakeVM) error {
		if v.State != snapshot.StateRunning {
			return fmt.Errorf("VM %s: %w", g.vm, snapshot.ErrGone)
		}
		if g.frozen > 0 && !frozenToo {
			return fmt.Errorf("%s: the agent is in frozen state", call)
		}
		return fn()
	})
}

// Info describes the guest.
func (g *FakeGuest) Info(ctx context.Context) (info snapshot.GuestInfo, err error) {
	err = g.running(ctx, "Info", true, func() error { info = g.About; return nil })
	return info, err
}

// Exec runs one of the Programs; without them every command succeeds and says
// nothing.
func (g *FakeGuest) Exec(ctx context.Context, c snapshot.Command) (res snapshot.ExecResult, err error) {
	if err := g.running(ctx, "Exec", false, func() error { return nil }); err != nil {
		return res, err
	}
	if g.Programs == nil {
		return res, nil
	}
	return g.Programs(ctx, c)
}

// ReadFile reads a file that WriteFile wrote.
func (g *FakeGuest) ReadFile(ctx context.Context, path string, limit int64) (b []byte, err error) {
	err = g.running(ctx, "ReadFile", false, func() error {
		content, ok := g.files[path]
		if !ok {
			return fmt.Errorf("read %s: %w", path, snapshot.ErrNoFile)
		}
		if int64(len(content)) > limit {
			return fmt.Errorf("read %s in the guest: more than %d bytes", path, limit)
		}
		b = bytes.Clone(content)
		return nil
	})
	return b, err
}

// WriteFile keeps a file.
func (g *FakeGuest) WriteFile(ctx context.Context, path string, data []byte) error {
	return g.running(ctx, "WriteFile", false, func() error {
		g.files[path] = bytes.Clone(data)
		return nil
	})
}

// FreezeFilesystems makes writes to the VM's disks wait.
func (g *FakeGuest) FreezeFilesystems(ctx context.Context, mountPoints []string) (n int, err error) {
	err = g.running(ctx, "Freeze", false, func() error {
		for _, m := range g.MountPoints {
			if len(mountPoints) == 0 || slices.Contains(mountPoints, m) {
				n++
			}
		}
		g.frozen = n
		return nil
	})
	if err != nil {
		n = 0
	}
	return n, err
}

// ThawFilesystems lets them go on.
func (g *FakeGuest) ThawFilesystems(ctx context.Context) (n int, err error) {
	err = g.running(ctx, "Thaw", true, func() error {
		n, g.frozen = g.frozen, 0
		g.fake.thawed.Broadcast()
		return nil
	})
	if err != nil {
		n = 0
	}
	return n, err
}

// FilesystemsFrozen tells which it is.
func (g *FakeGuest) FilesystemsFrozen(ctx context.Context) (frozen bool, err error) {
	err = g.running(ctx, "Frozen", true, func() error { frozen = g.frozen > 0; return nil })
	return frozen, err
}

// Close does nothing: the guest stays.
func (g *FakeGuest) Close() error { return nil }
