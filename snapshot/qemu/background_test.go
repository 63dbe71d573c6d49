package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// begun is a run that has died with a background snapshot under way into a file.
func (r *run) begun(into *os.File) {
	r.t.Helper()
	marker, err := createState(r.plan.Saved)
	if err == nil {
		err = marker.Close()
	}
	if err == nil {
		err = r.host.during(r.ctx, r.plan, func(m *monitor) error { return m.weighAnchor(r.ctx, r.plan) })
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.ask("migrate-set-capabilities", args{"capabilities": []args{{"capability": "background-snapshot", "state": true}}}, nil)
	r.ask("stop", nil, nil)
	r.take()
	if err := r.hands.ExecuteFD(r.ctx, "getfd", args{"fdname": "begun"}, nil, into); err != nil {
		r.t.Fatal(err)
	}
	r.ask("migrate", args{"uri": "fd:begun"}, nil)
	r.host.Close()
	r.host = r.testVM.host()
}

// A QEMU that may hang with its guest is asked for no background snapshot.
func TestBackgroundHere(t *testing.T) {
	t.Parallel()
	r := savable(t, savedVM())
	how, err := r.host.TakeSaved(r.ctx, r.plan, func(snapshot.Moment) {})
	if err != nil {
		t.Fatal(err)
	}
	if how.Background == forgets(r.version()) || forgets(r.version()) && !strings.Contains(how.Why, errForgets.Error()) {
		t.Errorf("QEMU %+v: the memory was saved %+v", r.version(), how)
	}
	r.unsaved()
}

// A background snapshot that fails leaves no guest waiting for its memory: the dead-man, or
// the next start, sees to what is left to do.
func TestBackgroundFails(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*testing.T, *run){
		"nobody reads": func(t *testing.T, r *run) {
			pr, pw, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r.begun(pw)
			_, err = io.ReadFull(pr, make([]byte, 100<<10)) // the guest goes on, or is about to
			if err := errors.Join(err, pr.Close(), pw.Close()); err != nil {
				t.Fatal(err)
			}
		},
		"no room": func(t *testing.T, r *run) {
			dir := filepath.Join(r.dir, "small")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			smallFS(t, dir, "128k")
			f, err := os.Create(filepath.Join(dir, "state"))
			if err != nil {
				t.Fatal(err)
			}
			r.begun(f)
			f.Close()
		},
		"cancelled": func(t *testing.T, r *run) {
			f, err := os.Create(filepath.Join(r.dir, "state"))
			if err != nil {
				t.Fatal(err)
			}
			r.begun(f)
			f.Close()
			ctx, cancel := context.WithTimeout(r.ctx, time.Second)
			defer cancel()
			err = r.hands.Execute(ctx, "migrate_cancel", nil, nil)
			if err != nil && !errors.Is(err, context.DeadlineExceeded) { // QEMU may wait for memory already
				t.Fatal(err)
			}
		},
	} {
		for how, repair := range map[string]func(*run) error{
			"Resume": func(r *run) error { return r.host.Resume(r.ctx, r.plan) },
			"Merge":  (*run).merge,
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				r := savableBy(t, savedVM(), "background")
				begin(t, r)
				if err := repair(r); err != nil {
					t.Fatal(err)
				}
				r.goesOn()
				r.untuned()
				r.unsaved()
			})
		}
	}
}

// scarce is the monitor of a QEMU that can open no file while it begins to migrate, until it
// is given the next one.
type scarce struct {
	qmp.Monitor
	t      *testing.T
	pid    int
	before *unix.Rlimit // nil: it can
}

func (s *scarce) Execute(ctx context.Context, command string, arguments, result any) error {
	if command == "migrate" && s.before == nil {
		s.before = &unix.Rlimit{}
		if err := unix.Prlimit(s.pid, unix.RLIMIT_NOFILE, nil, s.before); err != nil {
			s.t.Fatal(err)
		}
		s.limit(unix.Rlimit{Cur: s.unused(), Max: s.before.Max}) // less, and it could not poll what it has
	}
	return s.Monitor.Execute(ctx, command, arguments, result)
}

func (s *scarce) ExecuteFD(ctx context.Context, command string, arguments, result any, file *os.File) error {
	if s.before != nil {
		s.limit(*s.before)
	}
	return s.Monitor.ExecuteFD(ctx, command, arguments, result, file)
}

// unused is the number that QEMU's next open file would have.
func (s *scarce) unused() (n uint64) {
	for {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", s.pid, n)); err != nil {
			return n
		}
		n++
	}
}

func (s *scarce) limit(l unix.Rlimit) {
	s.t.Helper()
	if err := unix.Prlimit(s.pid, unix.RLIMIT_NOFILE, &l, nil); err != nil {
		s.t.Fatal(err)
	}
}

// A QEMU that finds out when it begins that it cannot is told to write all of it while the VM
// stands still, which has not gone on.
func TestBackgroundCannotBegin(t *testing.T) {
	t.Parallel()
	r := savableBy(t, savedVM(), "background")
	m := r.host.lines["web"].m
	m.Monitor = &scarce{Monitor: m.Monitor, t: t, pid: r.cmd.Process.Pid}
	var moments []string
	how, err := r.host.TakeSaved(r.ctx, r.plan, func(snapshot.Moment) { moments = append(moments, r.runState()) })
	if err != nil {
		t.Fatal(err)
	}
	if how.Background || how.Why == "" || !slices.Equal(moments, []string{"paused", "running"}) {
		t.Errorf("the memory was saved %+v; at its moments the VM was %v", how, moments)
	}
	r.untuned()
	r.hasState()
	r.unsaved()
}
