package qemu

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// busy is a run whose guest writes all the time, faster than its commit, which the test
// holds to speed.
func busy(t *testing.T, was map[string]int64) *run {
	t.Helper()
	r := newRun(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1}, func(v *testVM) { v.boot = closeWriter() })
	if was != nil {
		a := args{"id": r.plan.Disks[0].Device}
		for _, name := range plainLimits() {
			a[name] = 0
		}
		for name, v := range was {
			a[name] = v
		}
		r.ask("block_set_io_throttle", a, nil)
		must(t, r.merge())
		var err error
		r.plan, err = r.host.Plan(r.ctx, "web", "slow")
		must(t, err)
		must(t, r.host.Prepare(r.ctx, r.plan))
	}
	r.plan.Slowdown = snapshot.Slowdown{After: 300 * time.Millisecond, Rate: 128 << 10}
	r.ask("cont", nil, nil)
	r.goesOn()
	r.take()
	before := r.guestWrote()
	eventually(t, "the guest has written all of its sectors", func() bool { return r.guestWrote() > before+32 })
	r.startCommit(slowCommit)
	return r
}

const slowCommit = 400_000 // bytes a second

// closeWriter is the writing guest on half a mebibyte.
func closeWriter() []byte {
	b := writingGuest()
	at := bytes.Index(b, []byte{0x00, 0x1F, 0x00, 0x00}) // the sector where it turns
	b[at+1] = 0x04
	return b
}

func (r *run) now() snapshot.Limits {
	r.t.Helper()
	var l snapshot.Limits
	must(r.t, r.host.during(r.ctx, r.plan, func(m *monitor) error {
		all, err := m.limits(r.ctx)
		l = all[r.plan.Disks[0].Device]
		return err
	}))
	return l
}

// A guest that writes faster than its delta is merged is slowed down where the plan says
// so, until it is merged, and then may do what it could before.
func TestSlowdown(t *testing.T) {
	t.Parallel()
	for name, was := range map[string]map[string]int64{
		"no limits":         nil,
		"limits of its own": {"iops": 5000, "bps_rd": 100 << 20, "bps_wr": 50 << 20, "bps_wr_max": 80 << 20, "bps_wr_max_length": 5},
		"one for both":      {"bps": 60 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := busy(t, was)
			before := r.plan.Disks[0].Limits
			if len(before.Values) != len(was) {
				t.Fatalf("the plan has the limits %+v", before)
			}
			var told []snapshot.Merging
			must(t, r.host.MergeTelling(r.ctx, r.plan, func(m snapshot.Merging) { told = append(told, m) }))
			slowed := func(m snapshot.Merging) bool { return m.Slowed != "" }
			if !slices.ContainsFunc(told, slowed) {
				t.Errorf("the guest was not slowed down: %+v", told)
			}
			for _, m := range told {
				if m.Done < 0 || m.Total <= 0 || m.Done > m.Total {
					t.Errorf("it says %+v", m)
				}
			}
			if now := r.now(); !sameLimits(now, before) || now.Group != before.Group {
				t.Errorf("limits: %+v, and were %+v", now, before)
			}
			r.goesOn()
			if left := r.left(r.plan.Disks[0]); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// The process that slowed the guest down dies. The next one goes on with its job, and
// gives the guest its speed back. What somebody else has set meanwhile stays.
func TestSlowdownOutlivesLull(t *testing.T) {
	t.Parallel()
	for name, theirs := range map[string]int64{"nobody": 0, "an administrator": 20_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := busy(t, nil)
			dead, slowed, over, ended := r.host, make(chan struct{}), make(chan struct{}), make(chan struct{})
			ctx, cancel := context.WithCancel(r.ctx)
			go func() {
				defer close(ended)
				_ = dead.MergeTelling(ctx, r.plan, func(m snapshot.Merging) { // it does not live to hear of it
					if m.Slowed == "" || ctx.Err() != nil {
						return
					}
					cancel()
					_ = dead.lines["web"].m.Close()
					close(slowed)
					<-over
				})
			}()
			defer func() { close(over); <-ended }()
			<-slowed
			r.host = r.testVM.host()
			if theirs > 0 {
				a := args{"id": r.plan.Disks[0].Device}
				for _, name := range plainLimits() {
					a[name] = 0
				}
				a["bps_wr"] = theirs
				r.ask("block_set_io_throttle", a, nil)
			}
			must(t, r.merge())
			if got := r.now().Values["bps_wr"]; got != theirs {
				t.Errorf("the guest is held to %d, want %d", got, theirs)
			}
			r.goesOn()
		})
	}
}

func TestSlowedLimits(t *testing.T) {
	s := snapshot.Slowdown{After: time.Second, Rate: 1 << 20}
	for name, c := range map[string]struct {
		was  map[string]int64
		step int
		want map[string]int64
	}{
		"none":               {nil, 0, map[string]int64{"bps_wr": 1 << 20}},
		"later":              {nil, 2, map[string]int64{"bps_wr": 1 << 18}},
		"as slow as it gets": {nil, 40, map[string]int64{"bps_wr": snapshot.MinRate}},
		"slower already":     {map[string]int64{"bps_wr": 1000}, 0, map[string]int64{"bps_wr": 1000}},
		"one for both":       {map[string]int64{"bps": 1 << 30, "bps_max": 2 << 30}, 0, map[string]int64{"bps": 1 << 20}},
		"other limits":       {map[string]int64{"iops": 10}, 0, map[string]int64{"iops": 10, "bps_wr": 1 << 20}},
	} {
		got := slowed(snapshot.Limits{Values: c.was}, s, c.step)
		if !sameLimits(got, snapshot.Limits{Values: c.want}) {
			t.Errorf("%s: %v, want %v", name, got.Values, c.want)
		}
		if c.was["bps_wr"] != 1000 && !ourLimits(got, snapshot.Limits{Values: c.was}, s) {
			t.Errorf("%s: not known again", name)
		}
	}
}
