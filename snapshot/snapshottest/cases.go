package snapshottest

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
)

func (k *kit) lists() {
	vm := k.find()
	if vm.Problem != "" || vm.State == snapshot.StateUnreachable {
		k.t.Errorf("the VM has a problem: %+v", vm)
	}
	names := map[string]bool{}
	for _, d := range vm.Disks {
		if d.Name == "" || d.Size <= 0 || d.Size%512 != 0 || names[d.Name] {
			k.t.Errorf("disk %+v: want a unique name and a size in sectors", d)
		}
		names[d.Name] = true
	}
	k.asBefore()
}

func (k *kit) unknownVM() {
	const name = "no-such-vm"
	_, err := k.Host.Plan(k.ctx, name, "run")
	wantErr(k.t, "Plan", err, snapshot.ErrNotFound)
	_, err = k.Host.Guest(k.ctx, name)
	wantErr(k.t, "Guest", err, snapshot.ErrNotFound)
	_, err = k.Host.Instance(k.ctx, name)
	wantErr(k.t, "Instance", err, snapshot.ErrNotFound)
}

func (k *kit) badRun() {
	for _, run := range []string{"", "a/b", "..", "a b", "a\x00b", "ü", strings.Repeat("r", 65)} {
		if p, err := k.Host.Plan(k.ctx, k.VM, run); err == nil {
			k.t.Errorf("Plan with run %q: got %+v, want an error", run, p)
		}
	}
	p := k.plan(strings.Repeat("R", 64))
	k.prepare(p)
	k.take(p)
	k.merge(p)
	k.asBefore()
}

func (k *kit) planChangesNothing() {
	k.write(1)
	p := k.plan("run-1")
	k.asBefore()
	if p.VM != k.VM || p.Run != "run-1" || p.Host == "" {
		k.t.Errorf("plan says %s/%s run %s", p.Host, p.VM, p.Run)
	}
	var got []snapshot.Disk
	for _, d := range p.Disks {
		got = append(got, d.Disk)
		if len(d.Chain) == 0 {
			k.t.Errorf("disk %s has no layers", d.Name)
		}
	}
	for _, x := range p.Excluded {
		got = append(got, x.Disk)
		if x.Reason == "" {
			k.t.Errorf("disk %s is left out without a reason", x.Disk.Name)
		}
	}
	for _, d := range k.disks {
		if !slices.Contains(got, d) {
			k.t.Errorf("disk %+v is neither planned nor excluded: %+v", d, got)
		}
	}
	if now, err := k.Host.Instance(k.ctx, k.VM); err != nil || p.State != snapshot.StateOff && now != p.Instance {
		k.t.Errorf("Instance is %q, %v; the plan says %q", now, err, p.Instance)
	}
	if d := cmp.Diff(p, k.plan("run-1")); d != "" {
		k.t.Errorf("a second plan differs (-first +second):\n%s", d)
	}
}

func (k *kit) frozenStandsStill() {
	k.write(0x10)
	p := k.plan("run")
	k.prepare(p)
	k.write(0x20)
	before := k.Copy()
	k.take(p)
	k.write(0x30)
	k.content()
	f := k.open(p)
	k.frozen(f, before)
	k.write(0x40)
	k.frozen(f, before)
	k.close(f)
	k.write(0x50)
	k.merge(p)
	k.asBefore()
	k.write(0x60)
	k.asBefore()
}

// oneInstant has the guest count upwards on all disks in turn. Whatever instant
// Take chose, no disk may show a count that an earlier disk of the turn does not
// show yet, nor be two turns behind.
func (k *kit) oneInstant() {
	if k.Fixture.Write == nil {
		return // nobody writes: there is one instant only
	}
	p := k.plan("run")
	k.prepare(p)
	stop := k.count()
	k.take(p)
	last := stop()
	for _, d := range k.disks {
		copy(k.model[d.Name], bytes.Repeat([]byte{last}, 4096))
	}
	f := k.open(p)
	k.together(f)
	k.close(f)
	k.merge(p)
	k.asBefore()
}

// together fails unless the disks show counts of one instant.
func (k *kit) together(f snapshot.Frozen) {
	k.t.Helper()
	var shown []byte
	for _, d := range k.disks {
		b := k.readDisk(f, d.Name)
		if !bytes.Equal(b[:4096], bytes.Repeat(b[:1], 4096)) {
			k.t.Errorf("disk %s shows a torn write", d.Name)
		}
		shown = append(shown, b[0])
	}
	for i := 1; i < len(shown); i++ {
		if shown[0]-shown[i] > 1 || shown[i]-shown[i-1] == 1 {
			k.t.Errorf("the disks were frozen apart: they show %v", shown)
		}
	}
}

// count writes a rising byte to all disks, one after the other, until stop is
// called; stop returns the last one. It returns when the first turns are done.
func (k *kit) count() (stop func() byte) {
	ctx, cancel := context.WithCancel(k.ctx)
	turns, done := make(chan byte, 1), make(chan byte, 1)
	var guest sync.WaitGroup
	k.t.Cleanup(func() { cancel(); guest.Wait() }) // where the test fails before stop
	guest.Go(func() {
		n := byte(0)
		defer func() { done <- n }()
		for turn := 1; ctx.Err() == nil; turn++ {
			n = byte(turn)
			for _, d := range k.disks {
				if err := k.Fixture.Write(d.Name, 0, 4096, n); err != nil {
					k.t.Errorf("write as the guest: %v", err)
					return
				}
			}
			if turn == 3 {
				turns <- n
			}
		}
	})
	select {
	case <-turns:
	case last := <-done:
		k.t.Fatalf("the guest stopped writing at %d", last)
	}
	return func() byte { cancel(); return <-done }
}

func (k *kit) openAgain() {
	k.write(1)
	p := k.plan("run")
	k.prepare(p)
	k.take(p)
	before := k.Copy()
	k.write(2)
	for range 3 {
		f := k.open(p)
		k.frozen(f, before)
		k.close(f)
		k.close(f)
	}
	k.merge(p)
	k.asBefore()
}

func (k *kit) misuse() {
	p := k.plan("run")
	k.prepare(p)
	k.take(p)
	f := k.open(p)
	if _, err := f.Disk(k.ctx, "no-such-disk"); err == nil {
		k.t.Error("an unknown disk opens")
	}
	if _, err := f.File(k.ctx, "/etc/hostname"); err == nil {
		k.t.Error("a file outside the plan can be read")
	}
	s, err := f.Disk(k.ctx, k.disks[0].Name)
	if err != nil {
		k.t.Fatalf("Disk: %v", err)
	}
	for _, off := range []int64{-4096, s.Size(), s.Size() - 512, 1 << 62} {
		if err := s.ReadAt(k.ctx, make([]byte, 4096), off); err == nil {
			k.t.Errorf("ReadAt(4096, %d) of a disk of %d bytes succeeds", off, s.Size())
		}
	}
	cancelled, cancel := context.WithCancel(k.ctx)
	cancel()
	if err := s.ReadAt(cancelled, make([]byte, 4096), 0); err == nil {
		k.t.Error("ReadAt ignores its context")
	}
	wantErr(k.t, "Watch", f.Watch(cancelled), context.Canceled)
	if err := s.ReadAt(k.ctx, make([]byte, 4096), 0); err != nil {
		k.t.Errorf("ReadAt after a cancelled one: %v", err)
	}
	if err := s.Close(); err != nil {
		k.t.Errorf("close source: %v", err)
	}
	k.close(f)
	k.merge(p)
	k.asBefore()
}

func (k *kit) smallFiles() {
	p := k.plan("run")
	k.prepare(p)
	k.take(p)
	f := k.open(p)
	for _, file := range p.Files {
		b, err := f.File(k.ctx, file.Path)
		if err != nil || len(b) == 0 {
			k.t.Errorf("file %+v: %d bytes, %v", file, len(b), err)
		}
	}
	k.close(f)
	k.merge(p)
	k.asBefore()
}

func (k *kit) mergePending() {
	first := k.plan("first")
	k.prepare(first)
	if !slices.ContainsFunc(first.Disks, func(d snapshot.DiskPlan) bool { return d.Delta != "" }) {
		k.merge(first) // a host without deltas has nothing that could be pending
		return
	}
	_, err := k.Host.Plan(k.ctx, k.VM, "second")
	wantErr(k.t, "Plan after Prepare", err, snapshot.ErrMergePending)
	k.take(first)
	k.write(1)
	_, err = k.Host.Plan(k.ctx, k.VM, "second")
	wantErr(k.t, "Plan after Take", err, snapshot.ErrMergePending)
	k.merge(first)
	second := k.plan("second")
	k.prepare(second)
	k.take(second)
	k.merge(second)
	k.asBefore()
}

func (k *kit) guest() {
	g, err := k.Host.Guest(k.ctx, k.VM)
	if !k.Fixture.Guest {
		wantErr(k.t, "Guest", err, snapshot.ErrNoGuest)
		return
	}
	if err != nil {
		k.t.Fatalf("Guest: %v", err)
	}
	defer g.Close()
	if _, err := g.Info(k.ctx); err != nil {
		k.t.Errorf("Info: %v", err)
	}
	if n, err := g.FreezeFilesystems(k.ctx, nil); err != nil || n == 0 {
		k.t.Errorf("FreezeFilesystems: %d, %v", n, err)
	}
	k.frozenIs(g, true)
	if n, err := g.ThawFilesystems(k.ctx); err != nil || n == 0 {
		k.t.Errorf("ThawFilesystems: %d, %v", n, err)
	}
	k.frozenIs(g, false)
	if n, err := g.ThawFilesystems(k.ctx); err != nil || n != 0 {
		k.t.Errorf("ThawFilesystems again: %d, %v", n, err)
	}
}

func (k *kit) frozenIs(g snapshot.Guest, want bool) {
	k.t.Helper()
	if got, err := g.FilesystemsFrozen(k.ctx); err != nil || got != want {
		k.t.Errorf("FilesystemsFrozen: %v, %v, want %v", got, err, want)
	}
}
