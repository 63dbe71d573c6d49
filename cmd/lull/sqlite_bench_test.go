package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/lull-backup/lull/snapshot/guesttest"
)

// guestPrograms is where the small guest has programs that it does not come with.
const guestPrograms = "/data/0/programs"

// newSQLiteLab is a lab whose small guest has SQLite, and a database that is written to.
func newSQLiteLab(t testing.TB) *lab {
	t.Helper()
	content := t.TempDir()
	if err := os.Mkdir(filepath.Join(content, "programs"), 0o755); err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{"sqlite3": "sqlite3", "flock": "util-linux"}
	for name, pkg := range programs {
		copyProgram(t, name, pkg, filepath.Join(content, "programs"))
	}
	l := newLab(t, guesttest.Options{Disks: []guesttest.Disk{{Content: content}, {}}})
	for name := range programs {
		l.install("/bin/"+name, fmt.Sprintf(`LD_LIBRARY_PATH=%[1]s exec %[1]s/%[2]s "$@"`, guestPrograms, name))
	}
	l.inGuest(`sqlite3 /data/0/app.db "PRAGMA journal_mode=WAL; CREATE TABLE t (n)"
setsid sh -c '{ echo ".timeout 70000"; while echo "INSERT INTO t VALUES (1);"; do sleep 0.05; done; } | sqlite3 /data/0/app.db' </dev/null >/dev/null 2>&1 &`)
	return l
}

// copyProgram copies a program of this host with its libraries.
func copyProgram(t testing.TB, name, pkg, to string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	out, err := exec.CommandContext(t.Context(), "ldd", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := []string{path}
	for _, found := range regexp.MustCompile(`=> (/\S+)`).FindAllSubmatch(out, -1) {
		files = append(files, string(found[1]))
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(file)), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// installPythonWriter makes the example of docs/plugins.md a plugin, for the database of
// newSQLiteLab.
func (l *lab) installPythonWriter() {
	l.t.Helper()
	const example, python = "../../docs/examples/writer-python", "/usr/bin/python3"
	dir := l.t.TempDir()
	for _, name := range []string{"lullplugin.py", "sqlite_writer.py"} {
		data, err := os.ReadFile(filepath.Join(example, name))
		if err != nil {
			l.t.Fatal(err)
		}
		l.write(filepath.Join(dir, name), string(data))
	}
	protoc := exec.CommandContext(l.ctx, "protoc", "-I"+example, "-I../../plugins/proto", "--python_out="+dir, "writer.proto", "goplugin.proto")
	if out, err := protoc.CombinedOutput(); err != nil {
		l.t.Fatalf("protoc (apt-get install protobuf-compiler): %v\n%s", err, out)
	}
	program := fmt.Sprintf("#!/bin/sh\nexec %s %s/sqlite_writer.py \"$@\"\n", python, dir)
	path := filepath.Join(l.dir, "plugins", "sqlite")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(program), 0o755); err != nil {
		l.t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(program))
	l.writers = fmt.Sprintf("plugins: {sqlite: {sha256: %q, grants: [exec], args: [/data/0/app.db]}}", hex.EncodeToString(sum[:]))
}
