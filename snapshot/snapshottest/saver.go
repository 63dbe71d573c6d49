package snapshottest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// RunSaver takes a snapshot.Saver through what it promises beyond a Host. The VM of
// each fixture runs, and its memory can be saved; its guest writes nothing but what
// the kit writes.
func RunSaver(t *testing.T, open func(t *testing.T) *Fixture) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*saverKit)
	}{
		{"Saves", (*saverKit).saves},
		{"SavedThenDied", (*saverKit).savedThenDied},
		{"NotSaved", (*saverKit).notSaved},
		{"Cancelled", (*saverKit).cancelled},
		{"Crash", (*saverKit).crash},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, open(t))
			saver, ok := k.Host.(snapshot.Saver)
			if !ok {
				t.Fatalf("%T is no Saver", k.Host)
			}
			c.run(&saverKit{kit: k, saver: saver})
		})
	}
}

type saverKit struct {
	*kit
	saver snapshot.Saver
}

// prepared is a run whose VM can be saved.
func (k *saverKit) prepared() snapshot.Plan {
	k.t.Helper()
	p := k.plan("run")
	k.asBefore() // nothing is there until TakeSaved
	k.prepare(p)
	if err := k.saver.CanSave(k.ctx, p); err != nil {
		k.t.Fatalf("CanSave: %v", err)
	}
	k.resumes(p)
	return p
}

// resumes calls Resume, which has nothing to do: the VM runs.
func (k *saverKit) resumes(p snapshot.Plan) {
	k.t.Helper()
	if err := k.saver.Resume(k.ctx, p); err != nil {
		k.t.Errorf("Resume: %v", err)
	}
	k.runs()
}

func (k *saverKit) runs() {
	k.t.Helper()
	if vm := k.find(); vm.State != snapshot.StateRunning {
		k.t.Errorf("the VM is %s", vm.State)
	}
}

func (k *saverKit) takeSaved(p snapshot.Plan) {
	k.t.Helper()
	var moments []snapshot.Moment
	how, err := k.saver.TakeSaved(k.ctx, p, func(m snapshot.Moment) { moments = append(moments, m) })
	k.t.Logf("the memory was saved: %+v", how)
	if err == nil && how.Background != (how.Why == "") {
		k.t.Errorf("the memory was saved in a way that is not explained: %+v", how)
	}
	if err != nil || !slices.Equal(moments, []snapshot.Moment{snapshot.MomentFrozen, snapshot.MomentGoesOn}) {
		k.t.Fatalf("TakeSaved: %v; the moments were %v", err, moments)
	}
	k.runs()
}

// state reads the saved state whole.
func (k *saverKit) state(f snapshot.Frozen) [sha256.Size]byte {
	k.t.Helper()
	src, err := f.(snapshot.FrozenState).SavedState(k.ctx)
	if err != nil {
		k.t.Fatalf("SavedState: %v", err)
	}
	b := ReadAll(k.ctx, k.t, src)
	if err := src.Close(); err != nil {
		k.t.Errorf("close state: %v", err)
	}
	if len(b) == 0 || bytes.Equal(b, make([]byte, len(b))) {
		k.t.Errorf("the state is %d zeros", len(b))
	}
	return sha256.Sum256(b)
}

// saves is a run from its beginning to its end.
func (k *saverKit) saves() {
	k.write(0x10)
	p := k.prepared()
	k.write(0x20)
	before := k.Copy()
	k.takeSaved(p)
	k.write(0x30)
	f := k.open(p)
	k.frozen(f, before)
	first := k.state(f)
	k.write(0x40)
	if k.state(f) != first {
		k.t.Error("the state has changed")
	}
	k.frozen(f, before)
	k.close(f)
	k.resumes(p)
	k.merge(p)
	k.resumes(p)
	k.asBefore()
}

// savedThenDied: another process ends the run.
func (k *saverKit) savedThenDied() {
	p := k.prepared()
	k.takeSaved(p)
	k.write(0x10)
	k.Host = k.Reopen(k.t)
	k.saver = k.Host.(snapshot.Saver)
	k.resumes(p)
	k.merge(p)
	k.asBefore()
}

// notSaved: where the disks alone were taken there is no state.
func (k *saverKit) notSaved() {
	p := k.prepared()
	k.take(p)
	f := k.open(p)
	if src, err := f.(snapshot.FrozenState).SavedState(k.ctx); err == nil {
		k.t.Errorf("there is a state of %d bytes", src.Size())
	}
	k.close(f)
	k.merge(p)
	k.asBefore()
}

// cancelled: the VM runs, whatever becomes of the call.
func (k *saverKit) cancelled() {
	p := k.prepared()
	ctx, cancel := context.WithCancel(k.ctx)
	cancel()
	_, err := k.saver.TakeSaved(ctx, p, func(snapshot.Moment) { k.t.Error("the disks froze") })
	wantErr(k.t, "TakeSaved", err, context.Canceled)
	k.resumes(p)
	k.merge(p)
	k.asBefore()
}

// crash: of a VM that is gone there is nothing to save, and nothing to resume.
func (k *saverKit) crash() {
	p := k.prepared()
	k.Crash(k.t)
	_, err := k.saver.TakeSaved(k.ctx, p, func(snapshot.Moment) { k.t.Error("the disks froze") })
	wantErr(k.t, "TakeSaved", err, snapshot.ErrGone)
	if err := k.saver.Resume(k.ctx, p); err != nil {
		k.t.Errorf("Resume: %v", err)
	}
	k.mergeOffline(p)
}
