package qemu

import (
	"log/slog"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// called is a host whose configuration has the VM under some names, and no other VM.
func (l *lifeline) called(names ...string) {
	l.t.Helper()
	l.host.Close()
	var vms []VM
	for _, name := range names {
		vms = append(vms, VM{Name: name, QMP: l.dir + "/qmp"})
	}
	opt := l.options()
	opt.Whole = true
	l.host = NewHost(vms, opt)
	host := l.host
	l.t.Cleanup(func() { host.Close() })
	l.Host = host
}

// has proves that the VM has so many checkpoints under a name, once lull has looked.
func (l *lifeline) has(name string, want int) {
	l.t.Helper()
	if _, err := l.host.RecoverCheckpoints(l.ctx, name); err != nil {
		l.t.Fatalf("recovery as %s: %v", name, err)
	}
	tree, err := l.host.Checkpoints(l.ctx, name)
	if err != nil || len(tree.List) != want || tree.VM != name || len(tree.Missing) > 0 {
		l.t.Errorf("as %s: %+v, %v", name, tree, err)
	}
}

// The checkpoints of a VM that gets another name in the configuration follow it, also where
// that is cut off, and where it gets its name back.
func TestCheckpointFollows(t *testing.T) {
	t.Parallel()
	l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 2}, inMemory)
	l.Writes()
	l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	l.Create(snapshot.NewCheckpoint{})
	other := checkpoint.Tree{VM: "other", Disks: []checkpoint.Disk{{Name: "disk0", Path: l.dir + "/qmp/other.qcow2"}}, Nodes: []checkpoint.Node{{ID: "aa"}}}
	if err := checkpoint.Save(filepath.Join(l.options().CheckpointDir, "other.json"), other); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"", "follow-copied", "follow-removed"} {
		for _, between := range []string{"web", "db"} {
			l.called("db")
			if got := l.diesFollowing(step); got != step {
				t.Fatalf("it died at %q, not at %q", got, step)
			}
			l.called(between)
			l.has(between, 2)
			made, err := l.host.CreateCheckpoint(l.ctx, between, snapshot.NewCheckpoint{})
			if err != nil {
				t.Fatal(err)
			}
			l.Kept[made.ID] = map[string][]byte{}
			for disk, holds := range l.Want {
				l.Kept[made.ID][disk] = slices.Clone(holds)
			}
			l.called("db")
			l.has("db", 3)
			l.called("db", "web") // another name for a while is not another VM
			l.has("web", 0)
			l.has("db", 3)
			l.called("web")
			l.has("web", 3)
			l.Right()
			l.Delete(l.Tree().Now, false)
			l.Right()
		}
	}
	if trees, err := filepath.Glob(filepath.Join(l.options().CheckpointDir, "*.json")); err != nil || len(trees) != 2 {
		t.Errorf("trees: %v, %v", trees, err)
	}
	l.tie()
}

// A copy that was made for a name which the VM then did not keep is forgotten once the tree
// goes elsewhere: it would count, and be of a VM that has the name by then.
func TestFollowForgetsCopies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, tree := range []checkpoint.Tree{{VM: "web", Nodes: []checkpoint.Node{{ID: "aa"}}}, {VM: "db", Was: "web"}, {VM: "mail", Was: "post"}, {VM: "new", Was: "web"}} {
		tree.Disks = []checkpoint.Disk{{Name: "disk0", Path: "/srv/web.qcow2"}}
		if tree.VM == "new" { // which had the name before
			tree.Disks[0].Path = "/srv/new.qcow2"
		}
		if err := checkpoint.Save(filepath.Join(dir, tree.VM+".json"), tree); err != nil {
			t.Fatal(err)
		}
	}
	h := NewHost([]VM{{Name: "shop"}}, Options{CheckpointDir: dir, Log: slog.New(slog.DiscardHandler)})
	defer h.Close()
	c, err := h.checkpointing("shop")
	if err == nil {
		err = c.take("web")
	}
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if want := []string{filepath.Join(dir, "mail.json"), filepath.Join(dir, "new.json"), filepath.Join(dir, "shop.json")}; err != nil || !slices.Equal(paths, want) {
		t.Errorf("%q, %v, want %q", paths, err, want)
	}
}

// endedAt is what a process ends with at a step.
type endedAt string

// diesFollowing looks at the VM as db, in a process that dies at a step.
func (l *lifeline) diesFollowing(step string) (at string) {
	l.t.Helper()
	host := l.host
	defer func() {
		if p := recover(); p != nil {
			d, ok := p.(endedAt)
			if !ok {
				panic(p)
			}
			at = string(d)
		}
	}()
	host.opt.Observe = func(_, name string) {
		if name == step {
			panic(endedAt(name))
		}
	}
	if _, err := host.RecoverCheckpoints(l.ctx, "db"); err != nil {
		l.t.Fatal(err)
	}
	return ""
}

// tie proves that of two trees that may be the VM's none is taken.
func (l *lifeline) tie() {
	l.t.Helper()
	dir := l.options().CheckpointDir
	tree, err := checkpoint.Load(filepath.Join(dir, "web.json"), "web")
	if err != nil {
		l.t.Fatal(err)
	}
	tree.VM = "twin"
	if err := checkpoint.Save(filepath.Join(dir, "twin.json"), tree); err != nil {
		l.t.Fatal(err)
	}
	l.called("db")
	l.has("db", 0)
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || !slices.Contains(paths, filepath.Join(dir, "web.json")) {
		l.t.Errorf("trees: %v, %v", paths, err)
	}
}
