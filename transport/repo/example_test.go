package repo_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// exampleReader reads repositories from docs/format.md alone, in another language.
const exampleReader = "../../docs/examples/reader/lull_reader.py"

// The format document is enough to write a reader: one that shares no code with
// this package restores a disk.
func TestExampleReader(t *testing.T) {
	for _, dir := range []string{goldenDir1} {
		out := filepath.Join(t.TempDir(), "disk.raw")
		runExample(t, dir, "20261121T013000Z-f612dd79", "root", out)
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, goldenDisk()) {
			t.Errorf("%s: the restored disk is another one", dir)
		}
	}
}

// A pack with one bit flipped is refused, not restored.
func TestExampleReaderFindsDamage(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(goldenDir1)); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	for _, pack := range packs {
		b, err := os.ReadFile(pack)
		if err != nil {
			t.Fatal(err)
		}
		b[1300] ^= 1 // in the first segment
		if err := os.WriteFile(pack, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := example(t, dir, "20261121T013000Z-f612dd79", "root", filepath.Join(dir, "out"))
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("restored from damaged packs: %s", out)
	}
}

func runExample(t *testing.T, args ...string) {
	t.Helper()
	if out, err := example(t, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// example is the reader's command, under Debian's own Python, for which its
// packages are installed.
func example(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", append([]string{"-B", exampleReader}, args...)...)
	cmd.Env = append(os.Environ(), "LULL_PASSPHRASE="+string(passphrase))
	return cmd
}
