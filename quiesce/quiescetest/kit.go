package quiescetest

import (
	"context"
	"reflect"
	"time"

	"github.com/lull-backup/lull/quiesce"
)

// Fixture is a writer over an application that a test can look at.
type Fixture struct {
	// Writer is ready for its first call.
	Writer quiesce.Writer
	// Frozen says whether the application holds still now. Nil where nobody can
	// see it from outside: then the writer's word is all that there is.
	Frozen func() bool
}

// limit is how long a call may take on a busy machine.
const limit = time.Minute

// RunWriter holds writers to the contract of quiesce.Writer. make builds a new
// one, over an application that runs, for each test, and cleans up by t.Cleanup.
func RunWriter[S T[S]](t S, make func(t S) Fixture) {
	tests := []struct {
		name string
		run  func(*kit)
	}{
		{"Identify", (*kit).identify},
		{"Cycle", (*kit).cycle},
		{"AbortAnywhere", (*kit).abortAnywhere},
		{"AbortThaws", (*kit).abortThaws},
		{"ThawWithoutFreeze", (*kit).thawWithoutFreeze},
		{"ThawAfterAbort", (*kit).thawAfterAbort},
		{"CancelledFreeze", (*kit).cancelledFreeze},
		{"AbortBesideFreeze", (*kit).abortBesideFreeze},
		{"Restore", (*kit).restore},
	}
	for _, test := range tests {
		t.Run(test.name, func(t S) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			test.run(&kit{TB: t, Fixture: make(t), ctx: ctx, req: quiesce.Request{Run: "run-1", VM: "vm"}})
		})
	}
}

// kit is one test of the kit. It lives as long as the test, and so may its ctx.
type kit struct {
	TB
	Fixture
	ctx context.Context
	req quiesce.Request

	found []quiesce.Component // by the last Prepare
}

func (k *kit) must(what string, err error) {
	k.Helper()
	if err != nil {
		k.Fatalf("%s: %v", what, err)
	}
}

func (k *kit) wantFrozen(when string, want bool) {
	k.Helper()
	if k.Frozen == nil {
		return
	}
	if got := k.Frozen(); got != want {
		k.Fatalf("%s: frozen is %v, want %v", when, got, want)
	}
}

func (k *kit) prepareAndFreeze() {
	k.Helper()
	found, err := k.Writer.Prepare(k.ctx, quiesce.PrepareRequest{Request: k.req, Disks: Disks()})
	k.must("prepare", err)
	k.must("check components", quiesce.CheckComponents(found, Disks()))
	k.found = found
	k.wantFrozen("after prepare", false)
	k.must("freeze", k.Writer.Freeze(k.ctx, k.req))
	k.wantFrozen("after freeze", true)
}

func (k *kit) identify() {
	a, err := k.Writer.Identify(k.ctx)
	k.must("identify", err)
	k.must("check identity", a.Check())
	k.prepareAndFreeze()
	b, err := k.Writer.Identify(k.ctx)
	k.must("identify while frozen", err)
	if !reflect.DeepEqual(a, b) {
		k.Fatalf("identity changed from %+v to %+v", a, b)
	}
	k.wantFrozen("after identify", true)
	k.must("abort", k.Writer.Abort(k.ctx, k.req))
}

func (k *kit) cycle() {
	for range 3 {
		k.prepareAndFreeze()
		res, err := k.Writer.Thaw(k.ctx, k.req)
		k.must("thaw", err)
		if !res.Held {
			k.Fatal("thaw says that the freeze had not held")
		}
		k.wantFrozen("after thaw", false)
		doc, err := k.Writer.PostSnapshot(k.ctx, k.req)
		k.must("post-snapshot", err)
		if len(doc) > quiesce.MaxDocument {
			k.Fatalf("document of %d bytes, at most %d are allowed", len(doc), quiesce.MaxDocument)
		}
		k.must("complete", CompleteWith(k.ctx, k.Writer, k.req, k.found))
		k.wantFrozen("after complete", false)
	}
}

func (k *kit) abortAnywhere() {
	abort := func(when string) {
		k.Helper()
		for range 3 {
			k.must("abort "+when, k.Writer.Abort(k.ctx, k.req))
			k.wantFrozen("after abort "+when, false)
		}
	}
	abort("at first")
	k.must("prepare", PrepareOnly(k.ctx, k.Writer, k.req))
	abort("after prepare")
	k.prepareAndFreeze()
	abort("after freeze")
	k.prepareAndFreeze()
	_, err := k.Writer.Thaw(k.ctx, k.req)
	k.must("thaw", err)
	abort("after thaw")
}

func (k *kit) abortThaws() {
	k.prepareAndFreeze()
	k.must("abort", k.Writer.Abort(k.ctx, k.req))
	k.wantFrozen("after abort", false)
	k.prepareAndFreeze() // and it can be frozen again
	k.must("abort", k.Writer.Abort(k.ctx, k.req))
}

// notHeld checks a Thaw of what was not frozen: it fails or says so.
func (k *kit) notHeld() {
	k.Helper()
	if res, err := k.Writer.Thaw(k.ctx, k.req); err == nil && res.Held {
		k.Fatal("thaw says that a freeze had held, there was none")
	}
	k.wantFrozen("after thaw", false)
}

func (k *kit) thawWithoutFreeze() {
	k.must("prepare", PrepareOnly(k.ctx, k.Writer, k.req))
	k.notHeld()
}

func (k *kit) thawAfterAbort() {
	k.prepareAndFreeze()
	k.must("abort", k.Writer.Abort(k.ctx, k.req))
	k.notHeld()
}

func (k *kit) cancelledFreeze() {
	k.must("prepare", PrepareOnly(k.ctx, k.Writer, k.req))
	ctx, cancel := context.WithCancel(k.ctx)
	cancel()
	if err := k.Writer.Freeze(ctx, k.req); err == nil {
		k.Log("freeze was done although its context had ended before")
	}
	k.must("abort", k.Writer.Abort(k.ctx, k.req))
	k.wantFrozen("after abort", false)
}

func (k *kit) abortBesideFreeze() {
	k.must("prepare", PrepareOnly(k.ctx, k.Writer, k.req))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := k.Writer.Freeze(k.ctx, k.req); err != nil {
			k.Logf("freeze beside abort: %v", err)
		}
	}()
	k.must("abort beside freeze", k.Writer.Abort(k.ctx, k.req))
	select {
	case <-ended:
	case <-k.ctx.Done():
		k.Fatal("freeze did not end with its context")
	}
	k.must("abort after freeze", k.Writer.Abort(k.ctx, k.req))
	k.wantFrozen("after abort", false)
}

func (k *kit) restore() {
	k.prepareAndFreeze()
	_, err := k.Writer.Thaw(k.ctx, k.req)
	k.must("thaw", err)
	doc, err := k.Writer.PostSnapshot(k.ctx, k.req)
	k.must("post-snapshot", err)
	k.must("complete", CompleteLost(k.ctx, k.Writer, k.req, k.found))
	r := quiesce.RestoreRequest{VM: k.req.VM, Point: "point-1", Document: doc}
	for range 2 {
		k.must("pre-restore", k.Writer.PreRestore(k.ctx, r))
		k.must("post-restore", k.Writer.PostRestore(k.ctx, r))
	}
	k.wantFrozen("after restore", false)
}
