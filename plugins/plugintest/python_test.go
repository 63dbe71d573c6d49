package plugintest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/plugintest"
)

// The example of docs/plugins.md: a writer in Python, for a SQLite database that is
// on this machine, held to the whole contract.
func TestPythonWriter(t *testing.T) {
	t.Parallel()                      // most of its time it waits
	const python = "/usr/bin/python3" // Debian's, which has the packages
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import grpc, google.protobuf, cryptography").CombinedOutput(); err != nil {
		t.Fatalf("apt-get install python3-grpcio python3-protobuf python3-cryptography: %v\n%s", err, out)
	}
	dir := t.TempDir()
	const example = "../../docs/examples/writer-python"
	run(t, "protobuf-compiler", "protoc", "-I"+example, "-I../proto", "--python_out="+dir, "writer.proto", "goplugin.proto")
	for _, name := range []string{"lullplugin.py", "sqlite_writer.py"} {
		data, err := os.ReadFile(filepath.Join(example, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	db := filepath.Join(dir, "app.db")
	run(t, "sqlite3", "sqlite3", db, "PRAGMA journal_mode=WAL; CREATE TABLE t (n); INSERT INTO t VALUES (1);")
	plugintest.Run(t, plugintest.Options{
		Path: python, Args: []string{filepath.Join(dir, "sqlite_writer.py"), db},
		Grants: []plugins.Grant{plugins.GrantExec},
		Guest:  plugintest.Here,
		// A writer of another process has to wait.
		Frozen: func() bool {
			out, err := exec.CommandContext(t.Context(), "sqlite3", db, "INSERT INTO t VALUES (2);").CombinedOutput()
			return err != nil && strings.Contains(string(out), "locked")
		},
	})
}

func run(t *testing.T, pkg, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
