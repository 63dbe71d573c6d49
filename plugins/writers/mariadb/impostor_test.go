package mariadb_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/plugins/writers/internal/writertest"
	"github.com/lull-backup/lull/plugins/writers/mariadb"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// A process that is called mysqld and listens has a client beside it: it is not run.
func TestImpostor(t *testing.T) {
	dir := t.TempDir()
	marker := filepath.Join(dir, "was-run")
	program, err := os.ReadFile("/bin/cat")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "mysqld"), program, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "mariadb"), []byte("#!/bin/sh\nid >"+marker+"\n"), 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o777) // anyone's, whoever runs the test
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	socket, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "mysqld"))
	cmd.Dir, cmd.ExtraFiles = dir, []*os.File{socket}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); _ = cmd.Wait() }()
	l.Close() // which takes its name away: a genuine client finds nobody
	w := mariadb.New(writertest.NewHere(), mariadb.Settings{Only: []string{dir}, State: filepath.Join(t.TempDir(), "state")})
	var f *quiesce.Failure
	if err := quiescetest.PrepareOnly(t.Context(), w, quiesce.Request{}); !errors.As(err, &f) || f.Component != dir {
		t.Errorf("prepare: %v, want a failure of %s", err, dir)
	}
	if text, err := os.ReadFile(marker); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the impostor's client was run: %s, %v", text, err)
	}
}
