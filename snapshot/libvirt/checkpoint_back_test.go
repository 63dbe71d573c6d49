package libvirt

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// TestFilesBack: the small files that a domain had come back where those of a checkpoint have
// taken their place; what it has written since is not touched.
func TestFilesBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		since string // what the domain has written; empty: nothing
		on    bool
		want  string
		err   error
	}{
		"off":             {want: "present"},
		"written":         {since: "later", want: "later", err: snapshot.ErrUncertain},
		"started":         {on: true, want: "then", err: snapshot.ErrUncertain},
		"nothing was put": {since: "present", on: true, want: "present"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, f := smallFile(t)
			n := *c.tree.Find("1a2b3c4d")
			if err := errors.Join(c.keepPresent(n), putFiles(n)); err != nil {
				t.Fatal(err)
			}
			if test.since != "" {
				write(t, f.Path, test.since)
			}
			if err := c.filesBack(t.Context(), test.on); !errors.Is(err, test.err) || test.err == nil && err != nil {
				t.Errorf("files back: %v", err)
			}
			if got, err := os.ReadFile(f.Path); err != nil || string(got) != test.want {
				t.Errorf("the domain has %q, %v", got, err)
			}
			if _, err := os.Stat(c.present(0)); errors.Is(err, os.ErrNotExist) != (test.err == nil) {
				t.Errorf("what it had: %v", err)
			}
		})
	}
}

// smallFile is an Apply of a checkpoint with one small file, which holds "then"; that of the
// domain holds "present".
func smallFile(t *testing.T) (*checkpointing, checkpoint.File) {
	t.Helper()
	dir := t.TempDir()
	f := checkpoint.File{File: snapshot.File{Role: snapshot.RoleNVRAM, Path: filepath.Join(dir, "vars")}, Kept: filepath.Join(dir, "kept")}
	write(t, f.Path, "present")
	write(t, f.Kept, "then")
	return &checkpointing{Host: &Host{}, id: identity{rpc.UUID{}, "web"}, path: filepath.Join(dir, "tree.json"), tree: checkpoint.Tree{
		Nodes: []checkpoint.Node{{ID: "1a2b3c4d", Files: []checkpoint.File{f}}},
		Op:    &checkpoint.Op{Kind: checkpoint.Apply, Node: "1a2b3c4d", Run: "5e6f7a8b", Step: stepSwitch},
	}}, f
}

// TestSound: a checkpoint is not gone back to whose files could not be given to the domain.
func TestSound(t *testing.T) {
	t.Parallel()
	c, f := smallFile(t)
	kept := filepath.Join(t.TempDir(), "kept.xml")
	definition := checkpoint.File{File: snapshot.File{Role: snapshot.RoleDefinition}, Kept: kept}
	whole := checkpoint.Node{Files: []checkpoint.File{definition, f}}
	if err := c.sound(checkpoint.Node{Files: []checkpoint.File{f}}); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("no definition: %v", err)
	}
	if err := c.sound(whole); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the definition is gone: %v", err)
	}
	write(t, kept, "<domain")
	if err := c.sound(whole); err == nil {
		t.Error("half a definition is taken")
	}
	write(t, kept, "<domain><name>web</name></domain>")
	if err := c.sound(whole); err != nil {
		t.Errorf("whole: %v", err)
	}
	if err := os.Remove(f.Kept); err != nil {
		t.Fatal(err)
	}
	if err := c.sound(whole); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a small file is gone: %v", err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
