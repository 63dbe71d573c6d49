package plugintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// hangTime is how long a plugin that is stopped is asked before it is given up: it cannot
// answer in any time, so long enough for the call to be in its socket.
const hangTime = 50 * time.Millisecond

// budget holds a plugin to the time that it asks for itself, or the usual window.
func (r *rig) budget() {
	id, err := r.plugin.Identify(r.o.within(r))
	if err != nil {
		r.Fatalf("identify: %v", err)
	}
	budget := id.Budget
	if budget == 0 {
		budget = quiesce.DefaultWindow
	}
	if err := quiescetest.PrepareOnly(r.o.within(r), r.plugin, request()); err != nil {
		r.Fatalf("prepare: %v", err)
	}
	begin := time.Now()
	if err := r.plugin.Freeze(r.o.within(r), request()); err != nil {
		r.Fatalf("freeze: %v", err)
	}
	if err := r.thawHeld(); err != nil {
		r.Fatalf("thaw: %v", err)
	}
	took := time.Since(begin)
	r.Logf("freeze and thaw took %v of %v", took.Round(time.Millisecond), budget)
	if took > budget {
		r.Fatalf("freeze and thaw took %v, its budget is %v", took.Round(time.Millisecond), budget)
	}
}

// overBudget gives up a Freeze at moments that are too early for any plugin.
func (r *rig) overBudget() {
	for _, d := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		if err := quiescetest.PrepareOnly(r.o.within(r), r.plugin, request()); err != nil {
			r.Fatalf("prepare: %v", err)
		}
		ctx, cancel := context.WithTimeout(r.Context(), d)
		err := r.plugin.Freeze(ctx, request())
		cancel()
		r.alive(err)
		if err := r.plugin.Abort(r.o.within(r), request()); err != nil {
			r.Fatalf("abort after a freeze that was given up: %v", err)
		}
		r.running("abort of a freeze that was given up")
	}
	r.works("freezes that were given up")
}

// lateThaw thaws when the freeze is already broken: by another, or by Abort.
func (r *rig) lateThaw() {
	r.freeze()
	if r.o.look == lookAtGuest {
		if _, err := r.guest.ThawFilesystems(r.o.within(r)); err != nil {
			r.Fatalf("thaw the guest past the plugin: %v", err)
		}
		r.notHeld("somebody else had thawed the guest")
		r.freeze()
	}
	if err := r.plugin.Abort(r.o.within(r), request()); err != nil {
		r.Fatalf("abort: %v", err)
	}
	r.notHeld("it was aborted before")
	r.works("late thaws")
}

func (r *rig) notHeld(because string) {
	r.Helper()
	if res, err := r.plugin.Thaw(r.o.within(r), request()); err == nil && res.Held {
		r.Fatalf("thaw says that the freeze had held, although %s", because)
	}
	r.running("thaw")
}

// completeWithoutFreeze may fail, and must do no harm.
func (r *rig) completeWithoutFreeze() {
	r.alive(quiescetest.CompleteWith(r.o.within(r), r.plugin, request(), nil))
	_, err := r.plugin.PostSnapshot(r.o.within(r), request())
	r.alive(err)
	r.running("complete without freeze")
	r.works("complete without freeze")
}

// alive lets any answer pass but that of a dead plugin.
func (r *rig) alive(err error) {
	r.Helper()
	if errors.Is(err, quiesce.ErrWriterGone) {
		r.Fatalf("it died: %v", err)
	}
}

// restart ends the plugin in the window, in good order.
func (r *rig) restart() {
	r.freeze()
	r.again()
	r.works("a restart in the window")
	for range 3 {
		r.again()
	}
	r.works("restarts")
}

// hostKilled does what the kernel does to a plugin whose host dies: the next host
// finds the application frozen, and a new plugin.
func (r *rig) hostKilled() {
	r.freeze()
	r.signal(syscall.SIGKILL)
	r.again()
	r.works("the end of its host")
}

// hangIn stops the plugin during a call. lull gives it up; the plugin goes on later,
// and hears Abort.
func (r *rig) hangIn(c call) {
	r.upTo(c)
	r.stop()
	ctx, cancel := context.WithTimeout(r.Context(), hangTime)
	defer cancel()
	err := c.run(ctx, r.plugin)
	r.signal(syscall.SIGCONT)
	if err == nil {
		r.Fatalf("%s was answered by a plugin that is stopped", c.name)
	}
	r.works("a hang in " + string(c.name))
}

// killIn kills the plugin while a call is under way.
func (r *rig) killIn(c call) {
	r.upTo(c)
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(r.Context(), r.o.Limit)
	defer cancel()
	go func(p *plugins.Plugin) { done <- c.run(ctx, p) }(r.plugin)
	r.signal(syscall.SIGKILL)
	if err := <-done; err != nil && !errors.Is(err, quiesce.ErrWriterGone) {
		r.Logf("%s beside kill -9: %v", c.name, err)
	}
	r.again()
	r.works("kill -9 in " + string(c.name))
}

// upTo brings the plugin to where a call belongs.
func (r *rig) upTo(c call) {
	r.Helper()
	if c.frozen {
		r.freeze()
	}
}

// stop stops the plugin, and returns once each of its threads stands still.
func (r *rig) stop() {
	r.Helper()
	r.signal(syscall.SIGSTOP)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ctx := r.o.within(r); !stopped(r.plugin.Pid()); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.Fatal("the plugin cannot be stopped by SIGSTOP")
		}
	}
}

func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		_, after, ok := bytes.Cut(stat, []byte(") ")) // the end of the name
		if err != nil || !ok || !bytes.HasPrefix(after, []byte("T")) {
			return false
		}
	}
	return err == nil && len(threads) > 0
}

func (r *rig) signal(s syscall.Signal) {
	r.Helper()
	if err := syscall.Kill(-r.plugin.Pid(), s); err != nil {
		r.Fatalf("%v: %v", s, err)
	}
}
