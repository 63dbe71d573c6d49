package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lull-backup/lull/snapshot"
)

// world is a disk of a few bytes, its images as files, and what every checkpoint has to
// show.
type world struct {
	tree  Tree
	own   layer
	files map[string]layer        // images of checkpoints, by ID
	disk  map[int]byte            // what the VM's disk shows
	shows map[string]map[int]byte // what each checkpoint shows
	next  int
}

// layer is an image: what was written to it, and the ID of the one below.
type layer struct {
	data map[int]byte
	on   string
}

func newWorld() *world {
	return &world{own: layer{data: map[int]byte{}}, files: map[string]layer{}, disk: map[int]byte{}, shows: map[string]map[int]byte{}}
}

func (w *world) write(at int, b byte) {
	w.own.data[at], w.disk[at] = b, b
}

func (w *world) create() {
	w.next++
	id := fmt.Sprint("n", w.next)
	w.tree.Add(Node{ID: id})
	w.files[id] = w.own
	w.own = layer{data: map[int]byte{}, on: id}
	w.shows[id] = maps.Clone(w.disk)
}

func (w *world) apply(id string) {
	w.tree.Now = id
	w.own = layer{data: map[int]byte{}, on: id}
	w.disk = maps.Clone(w.shows[id])
}

// remove does the steps as a host would.
func (w *world) remove(t *rapid.T, ids ...string) {
	w.tree.Delete(ids...)
	for _, id := range ids {
		delete(w.shows, id)
	}
	for {
		s, ok := w.tree.Next()
		if !ok {
			return
		}
		w.do(t, s)
		w.tree.Done(s)
		w.check(t)
	}
}

func (w *world) do(t *rapid.T, s Step) {
	lower := w.files[s.Node]
	delete(w.files, s.Node)
	if s.Drop {
		return
	}
	upper := w.own
	if s.Into != Own {
		upper = w.files[s.Into]
	}
	if upper.on != s.Node {
		t.Fatalf("%s is to be one with %s, and rests upon %s", s.Into, s.Node, upper.on)
	}
	if s.First != (lower.on == "") {
		t.Fatalf("%s rests upon %q, and the step says first: %v", s.Node, lower.on, s.First)
	}
	one := layer{data: maps.Clone(lower.data), on: lower.on}
	maps.Copy(one.data, upper.data)
	if s.Into == Own {
		w.own = one
	} else {
		w.files[s.Into] = one
	}
}

func (w *world) shown(l layer) map[int]byte {
	disk := map[int]byte{}
	if l.on != "" {
		disk = w.shown(w.files[l.on])
	}
	maps.Copy(disk, l.data)
	return disk
}

// check holds the images against what they have to show, and the tree against the images.
func (w *world) check(t *rapid.T) {
	if err := w.tree.Check(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(w.disk, w.shown(w.own)); d != "" {
		t.Fatalf("the VM's disk: %s", d)
	}
	for id, want := range w.shows {
		if d := cmp.Diff(want, w.shown(w.files[id])); d != "" {
			t.Fatalf("checkpoint %s: %s", id, d)
		}
	}
	var here []string
	for _, n := range w.tree.Nodes {
		here = append(here, n.ID)
		if w.files[n.ID].on != n.Parent {
			t.Fatalf("%s rests upon %q, and the tree says %q", n.ID, w.files[n.ID].on, n.Parent)
		}
	}
	slices.Sort(here)
	if d := cmp.Diff(slices.Sorted(maps.Keys(w.files)), here, cmp.Transformer("none", func(s []string) []string { return append([]string{}, s...) })); d != "" {
		t.Fatalf("images and tree: %s", d)
	}
	if w.own.on != w.tree.Now {
		t.Fatalf("the VM rests upon %q, and the tree says %q", w.own.on, w.tree.Now)
	}
}

// shared are those that are gone and still there: each has more than one upon it.
func (w *world) shared(t *rapid.T) {
	for _, n := range w.tree.Nodes {
		if count, _ := w.tree.dependents(n.ID); n.Gone && count < 2 {
			t.Fatalf("%s is gone, and %d rest upon it", n.ID, count)
		}
	}
}

// TestTree lets random operations run: whatever is created, applied and deleted, the VM and
// every checkpoint that is left show what they did.
func TestTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		pick := func(t *rapid.T) string {
			ids := slices.Sorted(maps.Keys(w.shows))
			if len(ids) == 0 {
				t.SkipNow()
			}
			return rapid.SampledFrom(ids).Draw(t, "checkpoint")
		}
		t.Repeat(map[string]func(*rapid.T){
			"write":   func(t *rapid.T) { w.write(rapid.IntRange(0, 5).Draw(t, "at"), rapid.Byte().Draw(t, "byte")) },
			"create":  func(*rapid.T) { w.create() },
			"apply":   func(t *rapid.T) { w.apply(pick(t)) },
			"delete":  func(t *rapid.T) { w.remove(t, pick(t)); w.shared(t) },
			"subtree": func(t *rapid.T) { w.remove(t, w.tree.Below(pick(t))...); w.shared(t) },
			"merge": func(t *rapid.T) {
				w.remove(t, slices.Sorted(maps.Keys(w.shows))...)
				if len(w.tree.Nodes) > 0 || w.tree.Now != "" {
					t.Fatalf("left: %+v", w.tree)
				}
			},
			"": w.check,
		})
	})
}

func TestResolve(t *testing.T) {
	tree := Tree{Nodes: []Node{{ID: "aa11", Name: "one"}, {ID: "aa22"}, {ID: "bb33", Name: "aa"}, {ID: "cc44", Name: "old", Gone: true},
		{ID: "ee55", Name: "ff66"}, {ID: "ff66"}}}
	for ref, want := range map[string]string{"one": "aa11", "aa2": "aa22", "aa": "bb33", "bb33": "bb33", "b": "bb33", "ee": "ee55", "ff": "ff66"} {
		if n, err := tree.Resolve(ref); err != nil || n.ID != want {
			t.Errorf("%s: %+v, %v", ref, n, err)
		}
	}
	for _, ref := range []string{"", "a", "old", "cc44", "dd", "ff66"} {
		if n, err := tree.Resolve(ref); !errors.Is(err, snapshot.ErrNoCheckpoint) {
			t.Errorf("%q: %+v, %v", ref, n, err)
		}
	}
}

func TestChosen(t *testing.T) {
	tree := Tree{Nodes: []Node{{ID: "aa11", Name: "one"}, {ID: "bb22", Parent: "aa11"}, {ID: "cc33", Parent: "bb22", Gone: true}}}
	for _, c := range []struct {
		ref     string
		subtree bool
		want    []string
	}{{"one", false, []string{"aa11"}}, {"one", true, tree.All()}, {"bb", true, []string{"bb22", "cc33"}}} {
		if got, err := tree.Chosen(c.ref, c.subtree); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s, subtree %v: %v, %v", c.ref, c.subtree, got, err)
		}
	}
	if got, err := tree.Chosen("cc", true); !errors.Is(err, snapshot.ErrNoCheckpoint) || got != nil {
		t.Errorf("one that is gone: %v, %v", got, err)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "web.json")
	if tree, err := Load(path, "web"); err != nil || tree.VM != "web" || len(tree.Nodes) > 0 {
		t.Fatalf("no file: %+v, %v", tree, err)
	}
	want := Tree{VM: "web", Disks: []Disk{{Name: "vda", Path: "/srv/web.qcow2"}}, Now: "b",
		Nodes: []Node{{ID: "a", Gone: true}, {ID: "b", Parent: "a", Memory: &Memory{Path: "/m", Stream: 1, Limit: 2}}},
		Op:    &Op{Kind: Fold, Node: "a", Into: "b"}}
	if err := Save(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path, "web")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := Load(path, "db"); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("the tree of another VM: %v", err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x20
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, "web"); err == nil {
			t.Fatalf("byte %d is another, and nobody sees it", i)
		}
	}
	if err := Save(path, Tree{VM: "web", Now: "x"}); err == nil {
		t.Error("a tree that contradicts itself was written")
	}
}

// FuzzDecode: no file makes more than an error.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("lull-checkpoints 1 x\n{}\n"))
	f.Add([]byte("lull-checkpoints 2 x\n"))
	f.Add([]byte("lull-checkpoints 1 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var tree Tree
		if decode(b, &tree) == nil {
			for _, n := range tree.Nodes {
				tree.Path(n.ID)
				tree.Below(n.ID)
			}
			tree.Newest()
			tree.Next()
		}
	})
}
