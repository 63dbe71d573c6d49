package filesystem_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/plugins/writers/filesystem"
	"github.com/lull-backup/lull/plugins/writers/internal/writertest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

func TestMain(m *testing.M) { writertest.Main(m, filesystem.Serve) }

func TestWriterInProcess(t *testing.T) {
	quiescetest.RunWriter(t, func(*testing.T) quiescetest.Fixture {
		g := quiescetest.NewGuest()
		return quiescetest.Fixture{Writer: filesystem.New(filesystem.Settings{}, g), Frozen: g.IsFrozen}
	})
}

func TestWriterAsPlugin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	quiescetest.RunWriter(t, func(t *testing.T) quiescetest.Fixture {
		g := quiescetest.NewGuest()
		p, err := plugins.Start(t.Context(), plugins.Spec{
			Name: filesystem.Name, Path: self, Args: []string{writertest.ServedArg}, Env: []string{"GORACE=atexit_sleep_ms=0"}, // the race detector sleeps a second at the end
			Grants: []plugins.Grant{plugins.GrantInfo, plugins.GrantFreeze},
		}, g, quiescetest.Logger(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
		return quiescetest.Fixture{Writer: p, Frozen: g.IsFrozen}
	})
}

func TestFailures(t *testing.T) {
	silent := fmt.Errorf("sync: %w", snapshot.ErrGuestSilent)
	tests := []struct {
		name  string
		guest snapshot.Guest
		class quiesce.Class
	}{
		{"no guest", nil, quiesce.NotPresent},
		{"no channel", faulty(snapshot.ErrNoGuest), quiesce.NotPresent},
		{"silent agent", faulty(silent), quiesce.Timeout},
		{"late agent", faulty(context.DeadlineExceeded), quiesce.Timeout},
		{"refusal", faulty(errors.New("no")), quiesce.NotRetryable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := filesystem.New(filesystem.Settings{}, test.guest)
			for what, err := range map[string]error{
				"prepare": quiescetest.PrepareOnly(t.Context(), w, quiesce.Request{}),
				"freeze":  w.Freeze(t.Context(), quiesce.Request{}),
			} {
				var f *quiesce.Failure
				if !errors.As(err, &f) || f.Class != test.class {
					t.Errorf("%s: %v, want a failure of class %v", what, err, test.class)
				} else if test.class != quiesce.NotRetryable && f.Hint() == "" {
					t.Errorf("%s: %v has no hint", what, err)
				}
			}
		})
	}
}

func faulty(err error) *quiescetest.Guest {
	g := quiescetest.NewGuest()
	g.Fault = func(context.Context, string) error { return err }
	return g
}

func TestNothingFroze(t *testing.T) {
	g := &quiescetest.Guest{}
	var f *quiesce.Failure
	if err := filesystem.New(filesystem.Settings{}, g).Freeze(t.Context(), quiesce.Request{}); !errors.As(err, &f) {
		t.Errorf("freeze of a guest without file systems: %v, want a failure", err)
	}
}

// The agent passes over what is no mount point: fewer than were chosen is a failure.
func TestChosenMountPoints(t *testing.T) {
	for _, test := range []struct {
		chosen []string
		good   bool
	}{{nil, true}, {[]string{"/", "/srv"}, true}, {[]string{"/srv"}, true}, {[]string{"/", "/srv", "/typo"}, false}} {
		g := quiescetest.NewGuest()
		w := filesystem.New(filesystem.Settings{MountPoints: test.chosen}, g)
		if err := w.Freeze(t.Context(), quiesce.Request{}); (err == nil) != test.good {
			t.Errorf("%q: %v", test.chosen, err)
		}
		if got := g.Frozen(); !slices.Equal(got, test.chosen) {
			t.Errorf("%q: asked to freeze %q", test.chosen, got)
		}
		if err := w.Abort(t.Context(), quiesce.Request{}); err != nil || g.IsFrozen() {
			t.Errorf("%q: abort: %v, frozen %v", test.chosen, err, g.IsFrozen())
		}
	}
}

// withLog is a guest with a log of its hooks.
type withLog struct {
	*quiescetest.Guest
	log string
	err error // of the next reading
}

func (g *withLog) ReadFile(_ context.Context, path string, limit int64) ([]byte, error) {
	if err := g.err; err != nil {
		g.err = nil
		return nil, err
	}
	if path != "/var/log/qga-fsfreeze-hook.log" || int64(len(g.log)) > limit {
		return nil, snapshot.ErrNoFile
	}
	return []byte(g.log), nil
}

func TestFailedHooks(t *testing.T) {
	const good, bad = "Sun Nov 22 04:11:21 UTC 2026: /etc/qemu/fsfreeze-hook.d/a.sh finished with status=0\n", "Sun Nov 22 04:11:22 UTC 2026: /etc/qemu/fsfreeze-hook.d/mysql.sh finished with status=1\n"
	for _, test := range []struct {
		name, before, after, want string
		err                       error // when it is read before
	}{
		{"none", "", "", "", nil},
		{"good", good, good + good, "", nil},
		{"bad before", bad, bad + good, "", nil},
		{"bad now", bad, bad + good + bad + "x: status\n" + bad, "/etc/qemu/fsfreeze-hook.d/mysql.sh ended with 1", nil},
		{"begun anew", good + good + good, bad, "/etc/qemu/fsfreeze-hook.d/mysql.sh ended with 1", nil},
		{"begun anew, and as long", good, bad + bad, "/etc/qemu/fsfreeze-hook.d/mysql.sh ended with 1", nil},
		{"the first one now", "", bad, "/etc/qemu/fsfreeze-hook.d/mysql.sh ended with 1", snapshot.ErrNoFile},
		{"not known before", bad, bad, "", context.DeadlineExceeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := &withLog{quiescetest.NewGuest(), test.before, test.err}
			w := filesystem.New(filesystem.Settings{}, g)
			for _, err := range []error{quiescetest.PrepareOnly(t.Context(), w, quiesce.Request{}), w.Freeze(t.Context(), quiesce.Request{})} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := w.Thaw(t.Context(), quiesce.Request{}); err != nil {
				t.Fatal(err)
			}
			g.log = test.after
			_, err := w.PostSnapshot(t.Context(), quiesce.Request{})
			var f *quiesce.Failure
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (!errors.As(err, &f) || !f.Advisory || !strings.HasSuffix(f.Err.Error(), ": "+test.want)):
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

func TestThawedBehindItsBack(t *testing.T) {
	g := quiescetest.NewGuest()
	w := filesystem.New(filesystem.Settings{}, g)
	if err := w.Freeze(t.Context(), quiesce.Request{}); err != nil {
		t.Fatal(err)
	}
	g.Filesystems = 1 // the other one was thawed by somebody
	if res, err := w.Thaw(t.Context(), quiesce.Request{}); err != nil || res.Held {
		t.Errorf("thaw: %+v, %v; want a freeze that had not held", res, err)
	}
}

func TestAbortTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quiescetest.NewGuest()
		w := filesystem.New(filesystem.Settings{}, g)
		if err := w.Freeze(t.Context(), quiesce.Request{}); err != nil {
			t.Fatal(err)
		}
		refuse := 5
		g.Fault = func(_ context.Context, method string) error {
			if method == "ThawFilesystems" && refuse > 0 {
				refuse--
				return snapshot.ErrGuestSilent
			}
			return nil
		}
		if err := w.Abort(t.Context(), quiesce.Request{}); err != nil || g.IsFrozen() {
			t.Errorf("abort: %v, frozen %v", err, g.IsFrozen())
		}
	})
}

// What is not granted will not be by asking again.
func TestAbortDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := filesystem.New(filesystem.Settings{}, faulty(sdk.ErrDenied))
		if err := w.Freeze(t.Context(), quiesce.Request{}); !errors.Is(err, sdk.ErrDenied) {
			t.Errorf("freeze: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.Abort(ctx, quiesce.Request{}); !errors.Is(err, sdk.ErrDenied) || ctx.Err() != nil {
			t.Errorf("abort: %v, after all of its time: %v", err, ctx.Err())
		}
	})
}

// A guest that is silent from the start is not waited for twice.
func TestAbortWithoutFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := filesystem.New(filesystem.Settings{}, faulty(snapshot.ErrGuestSilent))
		if err := quiescetest.PrepareOnly(t.Context(), w, quiesce.Request{}); err == nil {
			t.Error("prepare: no error")
		}
		if err := w.Abort(t.Context(), quiesce.Request{}); err != nil {
			t.Errorf("abort: %v", err)
		}
	})
}

func TestAbortEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := filesystem.New(filesystem.Settings{}, faulty(snapshot.ErrGuestSilent))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var f *quiesce.Failure
		if err := w.Abort(ctx, quiesce.Request{}); !errors.As(err, &f) || f.Class != quiesce.Timeout {
			t.Errorf("abort: %v, want a timeout", err)
		}
	})
}
