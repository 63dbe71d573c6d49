package snapshottest

import (
	"context"
	"slices"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// stage is how far a run came before it was given up.
type stage struct {
	name string
	run  func(*kit, snapshot.Plan)
}

func stages() []stage {
	return []stage{
		{"Plan", func(*kit, snapshot.Plan) {}},
		{"Prepare", func(k *kit, p snapshot.Plan) { k.prepare(p) }},
		{"Take", func(k *kit, p snapshot.Plan) {
			k.prepare(p)
			k.write(0x70)
			k.take(p)
			k.write(0x80)
		}},
		{"HalfRead", (*kit).halfRead},
		{"WholeRun", func(k *kit, p snapshot.Plan) {
			k.prepare(p)
			k.take(p)
			k.write(0x90)
			k.merge(p)
			k.write(0xa0)
		}},
	}
}

// halfRead leaves readers and exports open, as a process that dies does.
func (k *kit) halfRead(p snapshot.Plan) {
	k.prepare(p)
	k.take(p)
	k.write(0xb0)
	f := k.open(p)
	s, err := f.Disk(k.ctx, k.disks[0].Name)
	if err != nil {
		k.t.Fatalf("Disk: %v", err)
	}
	if err := s.ReadAt(k.ctx, make([]byte, 65536), 0); err != nil {
		k.t.Fatalf("ReadAt: %v", err)
	}
	k.t.Cleanup(func() { _ = f.Close() }) // the chain under it is gone by then: any error will do
}

// mergeEverywhere merges after every stage, once by the host that was at work
// and once by a fresh one, and each time twice.
func mergeEverywhere(t *testing.T, open func(t *testing.T) *Fixture) {
	for _, s := range stages() {
		t.Run(s.name+"/FreshHost", func(t *testing.T) {
			k := newKit(t, open(t))
			p := k.plan("run")
			s.run(k, p)
			k.Host = k.Reopen(t)
			k.mergeTwice(p)
		})
		if s.name == "HalfRead" {
			continue // a living reader is the caller's to close
		}
		t.Run(s.name+"/SameHost", func(t *testing.T) {
			k := newKit(t, open(t))
			p := k.plan("run")
			s.run(k, p)
			k.mergeTwice(p)
		})
	}
}

func (k *kit) mergeTwice(p snapshot.Plan) {
	k.t.Helper()
	for range 2 {
		k.merge(p)
		k.asBefore()
		k.write(0xc0)
	}
	k.asBefore()
	next := k.plan("next")
	k.prepare(next)
	k.take(next)
	k.merge(next)
	k.asBefore()
}

// mergeInterrupted gives Merge a context that is over: whatever it did, the next
// one sets it right.
func (k *kit) mergeInterrupted() {
	p := k.plan("run")
	k.prepare(p)
	k.take(p)
	k.write(1)
	over, cancel := context.WithCancel(k.ctx)
	cancel()
	if err := k.Host.Merge(over, p); err == nil {
		k.asBefore() // it says that it is done, so it must be
	}
	k.merge(p)
	k.asBefore()
}

// crash kills the hypervisor under an open reader.
func (k *kit) crash() {
	if k.Crash == nil {
		k.asBefore()
		return
	}
	p := k.plan("run")
	k.prepare(p)
	k.take(p)
	k.write(1)
	f := k.open(p)
	s, err := f.Disk(k.ctx, k.disks[0].Name)
	if err != nil {
		k.t.Fatalf("Disk: %v", err)
	}
	watched := make(chan error, 1)
	go func() { watched <- f.Watch(k.ctx) }()
	k.Crash(k.t)
	wantErr(k.t, "Watch", <-watched, snapshot.ErrGone)
	wantErr(k.t, "ReadAt after the crash", s.ReadAt(k.ctx, make([]byte, 4096), 0), snapshot.ErrGone)
	_ = s.Close()
	_ = f.Close() // there is no one left to close it at: any error will do
	k.mergeOffline(p)
}

func (k *kit) mergeOffline(p snapshot.Plan) {
	k.t.Helper()
	for range 2 {
		k.merge(p)
		for _, f := range k.Fixture.Files(k.t) { // a hypervisor takes its own with it
			if !slices.Contains(k.files, f) {
				k.t.Errorf("%s is left behind", f)
			}
		}
		k.content()
	}
}
