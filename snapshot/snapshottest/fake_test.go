package snapshottest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/lull-backup/lull/snapshot"
)

const size = 2 << 20

func content() []byte {
	b := make([]byte, size)
	for i := range size / 4 {
		b[i] = byte(i*7 + i>>9)
	}
	return b
}

func fakeFixture(state snapshot.State) func(t *testing.T) *Fixture {
	return func(t *testing.T) *Fixture {
		f := NewFake(
			FakeVM{Name: "web", State: state, NoGuest: state == snapshot.StateOff,
				Disks: []FakeDisk{{"disk0", content()}, {"disk1", make([]byte, size)}, {"disk2", content()}},
				Files: map[snapshot.FileRole][]byte{snapshot.RoleNVRAM: []byte("variables")}, Memory: content()},
			FakeVM{Name: "other", State: snapshot.StateUnreachable})
		fx := &Fixture{Host: f.Host(), VM: "web",
			Reopen: func(testing.TB) snapshot.Host { return f.Host() },
			Content: func(t testing.TB, disk string) []byte {
				b, err := f.Content("web", disk)
				if err != nil {
					t.Fatal(err)
				}
				return b
			},
			Files: func(testing.TB) []string { return f.Leftovers() },
			Chain: func(testing.TB) string { return f.chain("web") },
		}
		if state == snapshot.StateRunning {
			fx.Guest = true
			fx.Crash = func(testing.TB) { f.Crash("web") }
			fx.Write = func(disk string, off, n int64, fill byte) error {
				return f.Write("web", disk, off, bytes.Repeat([]byte{fill}, int(n)))
			}
		}
		return fx
	}
}

func TestFakeRunning(t *testing.T) { Run(t, fakeFixture(snapshot.StateRunning)) }
func TestFakeSaver(t *testing.T)   { RunSaver(t, fakeFixture(snapshot.StateRunning)) }
func TestFakeOff(t *testing.T)     { Run(t, fakeFixture(snapshot.StateOff)) }

func TestFakeDiverges(t *testing.T) {
	f := fakeWithRun(t)
	if err := f.fake.Write("web", "disk0", 0, []byte("new")); err != nil {
		t.Fatal(err)
	}
	f.fake.Crash("web")
	f.fake.StartFromBase("web")
	wantErr(t, "Merge", f.host.Merge(t.Context(), f.plan), snapshot.ErrDiverged)
	if len(f.fake.Leftovers()) != 1 {
		t.Errorf("the delta is gone: %v", f.fake.Leftovers())
	}
}

type started struct {
	fake *Fake
	host snapshot.Host
	plan snapshot.Plan
}

func fakeWithRun(t *testing.T) started {
	t.Helper()
	f := NewFake(FakeVM{Name: "web", Disks: []FakeDisk{{"disk0", content()}}})
	h := f.Host()
	p, err := h.Plan(t.Context(), "web", "run")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := h.Take(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return started{f, h, p}
}

func TestFaults(t *testing.T) {
	f := fakeWithRun(t)
	boom := errors.New("boom")
	f.fake.Inject(Fault{Call: "Merge", Err: boom, Times: 1})
	f.fake.Inject(Fault{Call: "Merge", Err: boom, Times: 1, Late: true})
	wantErr(t, "Merge", f.host.Merge(t.Context(), f.plan), boom)
	if len(f.fake.Leftovers()) != 1 {
		t.Error("a call that fails took effect")
	}
	wantErr(t, "Merge", f.host.Merge(t.Context(), f.plan), boom)
	if len(f.fake.Leftovers()) != 0 {
		t.Error("a call whose answer is lost took no effect")
	}
	if err := f.host.Merge(t.Context(), f.plan); err != nil {
		t.Errorf("the third one fails too: %v", err)
	}
}

func TestHang(t *testing.T) {
	f := fakeWithRun(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.fake.Inject(Fault{Call: "Plan", Hang: true, Do: cancel, Err: snapshot.ErrUnreachable})
	_, err := f.host.Plan(ctx, "web", "next")
	wantErr(t, "Plan", err, snapshot.ErrUnreachable)
	wantErr(t, "Plan", err, context.Canceled)
}

func TestOpenReaderBlocksMerge(t *testing.T) {
	f := fakeWithRun(t)
	frozen, err := f.host.Open(t.Context(), f.plan)
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "Merge", f.host.Merge(t.Context(), f.plan), snapshot.ErrBusy)
	_ = frozen.Close()
	if err := f.host.Merge(t.Context(), f.plan); err != nil {
		t.Errorf("Merge after Close: %v", err)
	}
}

func TestWritesWaitForThaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake(FakeVM{Name: "web", Disks: []FakeDisk{{"disk0", content()}}})
		g := f.FakeGuest("web")
		if n, err := g.FreezeFilesystems(t.Context(), []string{"/data"}); n != 1 || err != nil {
			t.Fatalf("freeze: %d, %v", n, err)
		}
		written := make(chan error, 1)
		go func() { written <- f.Write("web", "disk0", 0, []byte("x")) }()
		select {
		case err := <-written:
			t.Fatalf("a frozen guest wrote: %v", err)
		default:
		}
		if n, err := g.ThawFilesystems(t.Context()); n != 1 || err != nil {
			t.Fatalf("thaw: %d, %v", n, err)
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
	})
}

func TestFull(t *testing.T) {
	f := fakeWithRun(t)
	frozen, err := f.host.Open(t.Context(), f.plan)
	if err != nil {
		t.Fatal(err)
	}
	watched := make(chan error, 1)
	go func() { watched <- frozen.Watch(t.Context()) }()
	f.fake.Fill("web")
	wantErr(t, "Watch", <-watched, snapshot.ErrNoSpace)
	_ = frozen.Close()
	if err := f.host.Merge(t.Context(), f.plan); err != nil {
		t.Fatal(err)
	}
	if err := f.fake.Write("web", "disk0", 0, []byte("x")); err != nil {
		t.Errorf("the VM does not go on: %v", err)
	}
}
