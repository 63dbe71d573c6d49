package plugintest

import (
	"errors"
	"fmt"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// Run holds a plugin to the contract, one test below t for each thing.
func Run[S quiescetest.T[S]](t S, o Options) {
	o = o.withDefaults()
	if !t.Run("Handshake", func(t S) { handshake(t, o) }) {
		t.Error("the rest is of no use without a handshake: not tried")
		return
	}
	for _, c := range []struct {
		name string
		run  func(quiescetest.TB, Options)
	}{
		{"StartedByHand", startedByHand},
		{"NewerLull", newerLull},
		{"SeveralVersions", severalVersions},
		{"Quiet", quiet},
		{"UnknownFields", unknownFields},
		{"UnknownCall", unknownCall},
		{"OddRequests", oddRequests},
		{"NoGrants", noGrants},
		{"Absent", absent},
	} {
		t.Run(c.name, func(t S) { c.run(t, o) })
	}
	if !t.Run("Cycle", func(t S) { cycle(t, o); o = o.looked(t) }) {
		t.Error("the rest is of no use where a plain cycle of calls does not pass: not tried")
		return
	}
	t.Run("Writer", func(all S) {
		var shared *rig
		quiescetest.RunWriter(all, func(t S) quiescetest.Fixture {
			if shared == nil || !shared.good(t) {
				shared = newSharedRig(t, all, o)
			}
			return quiescetest.Fixture{Writer: shared.plugin, Frozen: shared.frozen()}
		})
	})
	for _, c := range []struct {
		name string
		run  func(*rig)
	}{
		{"Budget", (*rig).budget},
		{"OverBudget", (*rig).overBudget},
		{"LateThaw", (*rig).lateThaw},
		{"CompleteWithoutFreeze", (*rig).completeWithoutFreeze},
		{"Restart", (*rig).restart},
		{"HostKilledInTheWindow", (*rig).hostKilled},
	} {
		t.Run(c.name, func(t S) { c.run(newRig(t, o)) })
	}
	each(t, "HangIn", o, (*rig).hangIn)
	each(t, "KillIn", o, (*rig).killIn)
}

// each runs a test for every call of the contract. They share a plugin as long as they go
// well: each ends with a cycle, which shows it to be as good as new.
func each[S quiescetest.T[S]](t S, name string, o Options, run func(*rig, call)) {
	t.Run(name, func(all S) {
		var shared *rig
		for _, c := range calls() {
			ok := all.Run(string(c.name), func(t S) {
				if shared == nil {
					shared = newSharedRig(t, all, o)
				}
				shared.TB = t
				run(shared, c)
			})
			if !ok {
				shared = nil
			}
		}
	})
}

// cycle is a plain backup.
func cycle(t quiescetest.TB, o Options) {
	err := newRig(t, o).cycle()
	var f *quiesce.Failure
	switch {
	case errors.As(err, &f) && f.Class == quiesce.NotPresent:
		t.Fatalf("the application is not in this guest: %v; give the kit a guest in which it is", err)
	case err != nil:
		t.Fatal(err)
	}
}

// rig is a plugin over a guest, under test.
type rig struct {
	quiescetest.TB                // the test that it is used in
	owner          quiescetest.TB // the test that its plugins end with
	o              Options
	guest          Guest
	plugin         *plugins.Plugin
}

func newRig(t quiescetest.TB, o Options) *rig {
	t.Helper()
	return newSharedRig(t, t, o)
}

// newSharedRig is for tests below owner, of which t is the first.
func newSharedRig(t, owner quiescetest.TB, o Options) *rig {
	t.Helper()
	r := &rig{TB: t, owner: owner, o: o, guest: o.Guest()}
	if o.Frozen != nil && o.Frozen() {
		t.Fatal("the application still holds still since an earlier test")
	}
	r.plugin = startShared(t, owner, o, r.guest)
	return r
}

// good says whether the next test may go on with what an earlier one has left.
func (r *rig) good(t quiescetest.TB) bool {
	_, err := r.plugin.Identify(r.o.within(t))
	frozen := r.frozen()
	return err == nil && (frozen == nil || !frozen())
}

// again starts the plugin anew over the same guest.
func (r *rig) again() {
	r.Helper()
	if err := r.plugin.Close(); err != nil {
		r.Errorf("end the plugin: %v", err)
	}
	r.plugin = startShared(r, r.owner, r.o, r.guest)
}

// cycle is a backup that goes well, as the plugin sees it.
func (r *rig) cycle() error {
	var found []quiesce.Component
	for _, step := range []struct {
		what string
		run  func() error
	}{
		{"prepare", func() (err error) { found, err = r.prepare(); return err }},
		{"freeze", func() error { return r.plugin.Freeze(r.o.within(r), request()) }},
		{"thaw", r.thawHeld},
		{"post-snapshot", func() error { _, err := r.plugin.PostSnapshot(r.o.within(r), request()); return err }},
		{"complete", func() error { return quiescetest.CompleteWith(r.o.within(r), r.plugin, request(), found) }},
	} {
		if err := step.run(); err != nil {
			_ = r.plugin.Abort(r.o.within(r), request()) // what failed first is the news
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// prepare has the plugin name its components, which may lie on the VM's disks alone.
func (r *rig) prepare() ([]quiesce.Component, error) {
	found, err := r.plugin.Prepare(r.o.within(r), quiesce.PrepareRequest{Request: request(), Disks: quiescetest.Disks()})
	if err == nil {
		err = quiesce.CheckComponents(found, quiescetest.Disks())
	}
	return found, err
}

func (r *rig) thawHeld() error {
	res, err := r.plugin.Thaw(r.o.within(r), request())
	if err == nil && !res.Held {
		err = errors.New("it says that the freeze had not held")
	}
	return err
}

// works holds the plugin to Abort and a cycle: whatever was done to it before, the
// application must run and be good for the next backup.
func (r *rig) works(after string) {
	r.Helper()
	if err := r.plugin.Abort(r.o.within(r), request()); err != nil {
		r.Fatalf("abort after %s: %v", after, err)
	}
	r.running("abort after " + after)
	if err := r.cycle(); err != nil {
		r.Fatalf("a cycle after %s: %v", after, err)
	}
	r.running("a cycle after " + after)
}

func (r *rig) running(after string) {
	r.Helper()
	if frozen := r.frozen(); frozen != nil && frozen() {
		r.Fatalf("still frozen after %s", after)
	}
}

func (r *rig) freeze() {
	r.Helper()
	if err := quiescetest.PrepareOnly(r.o.within(r), r.plugin, request()); err != nil {
		r.Fatalf("prepare: %v", err)
	}
	if err := r.plugin.Freeze(r.o.within(r), request()); err != nil {
		r.Fatalf("freeze: %v", err)
	}
}

// frozen is how to see the freeze; nil where nobody can.
func (r *rig) frozen() func() bool {
	if r.o.look == lookAtGuest {
		return r.guest.IsFrozen
	}
	return r.o.Frozen
}
