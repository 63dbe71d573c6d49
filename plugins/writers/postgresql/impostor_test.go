package postgresql_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lull-backup/lull/plugins/writers/internal/writertest"
	"github.com/lull-backup/lull/plugins/writers/postgresql"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// impostor is a process that is called postgres, in a folder that is anyone's, whoever
// runs the test. Beside it is a psql that says that it was run.
func impostor(t *testing.T) (dir, marker string, pid int) {
	t.Helper()
	dir = t.TempDir()
	marker = filepath.Join(dir, "was-run")
	program, err := os.ReadFile("/bin/cat")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "postgres"), program, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "psql"), []byte("#!/bin/sh\nid >"+marker+"\n"), 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "postgres"))
	cmd.Dir = dir
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	return dir, marker, cmd.Process.Pid
}

// With a service file psql runs as root: it is not the one of an impostor.
func TestImpostor(t *testing.T) {
	dir, marker, pid := impostor(t)
	service := filepath.Join(t.TempDir(), "pg_service.conf")
	err := os.WriteFile(service, []byte("[lull]\nuser=backup\n"), 0o600)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "postmaster.pid"), fmt.Appendf(nil, "%d\n%s\n1\n5432\n%s\n", pid, dir, dir), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	w := postgresql.New(writertest.NewHere(), postgresql.Settings{Only: []string{dir}, ServiceFile: service, State: filepath.Join(t.TempDir(), "state")})
	var f *quiesce.Failure
	if err := quiescetest.PrepareOnly(t.Context(), w, quiesce.Request{}); !errors.As(err, &f) || f.Component != dir {
		t.Errorf("prepare: %v, want a failure of %s", err, dir)
	}
	if text, err := os.ReadFile(marker); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the impostor's psql was run: %s, %v", text, err)
	}
}

// A postmaster.pid that is a pipe is no server's, and is not waited for.
func TestPipe(t *testing.T) {
	dir, _, _ := impostor(t)
	if err := syscall.Mkfifo(filepath.Join(dir, "postmaster.pid"), 0o666); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w := postgresql.New(writertest.NewHere(), postgresql.Settings{Only: []string{dir}, State: filepath.Join(t.TempDir(), "state")})
	var f *quiesce.Failure
	if err := quiescetest.PrepareOnly(ctx, w, quiesce.Request{}); !errors.As(err, &f) || f.Class != quiesce.NotPresent {
		t.Errorf("prepare: %v, want that there is none", err)
	}
}
