package faults_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/blobtest"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
)

func TestWithoutFaultsNothingChanges(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return faults.New(mem.New()) })
}

func TestFaultsAndLog(t *testing.T) {
	m := mem.New()
	f := faults.New(m)
	broken, lost := errors.New("broken"), errors.New("lost")
	f.Add(faults.Fault{Op: faults.Create, Prefix: "p/", Nth: 2, Before: broken})
	f.Add(faults.Fault{Op: faults.Create, Nth: 3, After: lost})
	f.Add(faults.Fault{Op: faults.Read, Nth: 2, Flip: 10, Cut: 1})
	ctx := t.Context()
	for i, want := range []error{nil, broken, lost} {
		if err := f.Create(ctx, fmt.Sprint("p/", i), []byte("data")); !errors.Is(err, want) {
			t.Errorf("create %d: %v, want %v", i, err, want)
		}
	}
	if d := cmp.Diff([]string{"p/0", "p/2"}, m.Names()); d != "" {
		t.Error(d)
	}
	for _, want := range []string{"data", "dct", "data"} {
		if got, err := f.Read(ctx, "p/0", 0, -1); err != nil || string(got) != want {
			t.Errorf("read: %q, %v, want %q", got, err, want)
		}
	}
	_, _ = f.Read(ctx, "p/0", 1, 2)
	_, _ = f.Stat(ctx, "p/0")
	_ = f.List(ctx, "p/", func(blob.Info) error { return nil })
	_ = f.Delete(ctx, "p/0")
	want := `create p/0 4
create p/1 4 failed
create p/2 4 reply lost
read p/0 0+
read p/0 0+
read p/0 0+
read p/0 1+2
stat p/0
list p/
delete p/0
`
	if d := cmp.Diff(want, f.Log()); d != "" {
		t.Errorf("log (-want +got):\n%s", d)
	}
	if f.ClearLog(); f.Log() != "" || f.Changes() != 3 {
		t.Errorf("log %q, %d changes", f.Log(), f.Changes())
	}
}

func TestCrash(t *testing.T) {
	m := mem.New()
	f := faults.New(m)
	f.CrashAfter(2)
	ctx := t.Context()
	for i := range 4 {
		_, _ = f.Stat(ctx, "a0")
		if err := f.Create(ctx, fmt.Sprint("a", i), nil); errors.Is(err, faults.ErrCrashed) != (i >= 2) {
			t.Errorf("create %d: %v", i, err)
		}
	}
	if _, err := f.Stat(ctx, "a0"); !errors.Is(err, faults.ErrCrashed) || !f.Crashed() {
		t.Error("reading goes on after a crash")
	}
	if d := cmp.Diff([]string{"a0", "a1"}, m.Names()); d != "" {
		t.Error(d)
	}
}

// A storm ends; who asks twice is answered once; others may come in between; a torn
// object is the last that a host has written.
func TestStormsDuplicatesAndTornObjects(t *testing.T) {
	m := mem.New()
	f := faults.New(m)
	storm := errors.New("503 slow down")
	f.Add(faults.Fault{Op: faults.Create, Prefix: "s", Nth: 2, For: 2, Before: storm})
	f.Add(faults.Fault{Op: faults.Change, Prefix: "d", Twice: true})
	f.Add(faults.Fault{Op: faults.Delete, Twice: true})
	meanwhile := 0
	f.Add(faults.Fault{Op: faults.Stat, While: func() { meanwhile = len(m.Names()) }})
	f.Add(faults.Fault{Op: faults.Create, Prefix: "t", Torn: 3})
	ctx := t.Context()
	for i, want := range []error{nil, storm, storm, nil} {
		if err := f.Create(ctx, fmt.Sprint("s", i), nil); !errors.Is(err, want) {
			t.Errorf("create %d: %v, want %v", i, err, want)
		}
	}
	if err := errors.Join(f.Create(ctx, "d", nil), f.Delete(ctx, "s0")); err != nil {
		t.Error(err)
	}
	if _, err := f.Stat(ctx, "d"); err != nil || meanwhile != 2 {
		t.Errorf("%v; %d objects meanwhile, want 2", err, meanwhile)
	}
	if err := f.Create(ctx, "t", []byte("whole")); !errors.Is(err, faults.ErrCrashed) || !f.Crashed() {
		t.Error(err)
	}
	if err := f.Delete(ctx, "t"); !errors.Is(err, faults.ErrCrashed) {
		t.Error(err)
	}
	if b, err := m.Read(ctx, "t", 0, -1); err != nil || string(b) != "who" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestHold(t *testing.T) {
	f := faults.New(mem.New())
	free := make(chan struct{})
	f.Add(faults.Fault{Op: faults.Create, Prefix: "a", Hold: free})
	done := make(chan error)
	go func() { done <- f.Create(t.Context(), "a", nil) }()
	if err := f.Create(t.Context(), "b", nil); err != nil {
		t.Fatal(err)
	}
	close(free)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.Heal()
	f.Add(faults.Fault{Hold: make(chan struct{})})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Delete(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
