package plugins_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// program makes a folder with a program in it.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugins", "writer")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGuarded(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, path string) string // returns the path to check
		says   string                                 // empty: well
	}{
		"well": {func(_ *testing.T, path string) string { return path }, ""},
		"link": {func(t *testing.T, path string) string {
			link := path + ".link"
			must(t, os.Symlink(path, link))
			return link
		}, ""},
		"file for the group": {func(t *testing.T, path string) string {
			must(t, os.Chmod(path, 0o775))
			return path
		}, "has the mode 0775"},
		"folder for all": {func(t *testing.T, path string) string {
			must(t, os.Chmod(filepath.Dir(path), 0o777))
			return path
		}, "has the mode 0777"},
		"folder far above": {func(t *testing.T, path string) string {
			must(t, os.Chmod(filepath.Dir(filepath.Dir(path)), 0o777))
			return path
		}, "has the mode 0777"},
		"link into a folder for all": {func(t *testing.T, path string) string {
			must(t, os.Chmod(filepath.Dir(path), 0o777))
			link := filepath.Join(t.TempDir(), "link")
			must(t, os.Symlink(path, link))
			return link
		}, "has the mode 0777"},
		"another's file": {func(t *testing.T, path string) string {
			must(t, os.Chown(path, 65534, 65534)) // tests run as root
			return path
		}, "belongs to the user 65534"},
		"no program": {func(t *testing.T, path string) string {
			must(t, os.Chmod(path, 0o644))
			return path
		}, "is no program"},
		"folder":  {func(_ *testing.T, path string) string { return filepath.Dir(path) }, "is no program"},
		"missing": {func(_ *testing.T, path string) string { return path + "x" }, "no such file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := plugins.CheckGuarded(test.change(t, program(t)))
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}

func TestUnguardedIsNotStarted(t *testing.T) {
	path := program(t)
	must(t, os.Chmod(path, 0o777))
	s := plugins.Spec{Name: "x", Path: path, Guarded: true, RuntimeDir: runtimeDir(t)}
	if _, err := plugins.Start(t.Context(), s, nil, discard()); !errors.Is(err, plugins.ErrUnguarded) {
		t.Errorf("error %v, want ErrUnguarded", err)
	}
}

// A plugin of another user works like any, the guest service included, and cannot
// touch what is the host's.
func TestUser(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "u-") // reachable by others, unlike t.TempDir
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	binary, err := os.ReadFile(self())
	must(t, err)
	s := spec("well")
	s.Path = filepath.Join(dir, "writer")
	must(t, os.WriteFile(s.Path, binary, 0o755))
	s.User, s.RuntimeDir, s.Guarded = "nobody", dir, true
	g := quiescetest.NewGuest()
	p, err := plugins.Start(t.Context(), s, g, discard())
	must(t, err)
	info, err := os.Stat("/proc/" + strconv.Itoa(p.Pid()))
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 65534 {
		t.Errorf("it runs as %d", uid)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid()) + "/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); name == "Groups" && value != "" || name == "CapEff" && strings.Trim(value, "0") != "" {
			t.Errorf("it has %s", strings.TrimSpace(line))
		}
	}
	must(t, p.Freeze(t.Context(), quiesce.Request{}))
	if !g.IsFrozen() {
		t.Error("the guest is not frozen")
	}
	must(t, p.Abort(t.Context(), quiesce.Request{}))
	must(t, p.Close())
	if left, err := filepath.Glob(filepath.Join(dir, "lull-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	s.User = "nobody-of-this-name"
	if _, err := plugins.Start(t.Context(), s, g, discard()); err == nil || !strings.Contains(err.Error(), "unknown user") {
		t.Errorf("unknown user: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
