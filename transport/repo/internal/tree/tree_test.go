package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// shelf is a store of nodes.
type shelf struct {
	mu    sync.Mutex
	nodes map[block.Name][]byte
	loads int
}

func (s *shelf) save(_ context.Context, node []byte) (block.Name, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := block.Name(sha256.Sum256(node))
	s.nodes[name] = bytes.Clone(node)
	return name, nil
}

func (s *shelf) load(_ context.Context, name block.Name) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	b, ok := s.nodes[name]
	if !ok {
		return nil, fmt.Errorf("%w: no node %s", wire.ErrDamaged, name)
	}
	return b, nil
}

// leaf saves a leaf of one block that stands for content.
func (s *shelf) leaf(content uint64) Ref {
	e := NewEntry(0, block.PageSize, sha256.Sum256(fmt.Append(nil, content)))
	name, _ := s.save(context.Background(), AppendLeaf(nil, []Entry{e}))
	return Ref{Name: name, Data: block.PageSize}
}

// contents reads a tree back: the leaf entry's name of each window.
func (s *shelf) contents(t testing.TB, root Root) map[int64]block.Name {
	t.Helper()
	got := map[int64]block.Name{}
	w := Walker{Load: s.load, Leaf: func(window int64, entries []Entry) error {
		got[window] = entries[0].Name
		return nil
	}}
	if err := w.Walk(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	return got
}

// A tree built in any order, of marks over any ranges, equals its model, and the
// tree that was built window by window.
func TestBuilderModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := &shelf{nodes: map[block.Name][]byte{}}
		var parent *Root
		before := map[int64]uint64{}
		for range rapid.IntRange(1, 3).Draw(rt, "generations") {
			windows := rapid.Int64Range(0, 40000).Draw(rt, "windows")
			size := windows * block.WindowSize
			if windows > 0 {
				size -= rapid.Int64Range(0, 3).Draw(rt, "short") * block.PageSize
			}
			root, now := buildRandom(rt, s, size, parent, before)
			if want := buildPlain(rt, s, size, now); root != want {
				rt.Fatalf("root %+v, window by window %+v", root, want)
			}
			if diff := cmp.Diff(leaves(s, now), s.contents(t, root)); diff != "" {
				rt.Fatalf("contents: %s", diff)
			}
			parent, before = &root, now
		}
	})
}

func leaves(s *shelf, model map[int64]uint64) map[int64]block.Name {
	want := map[int64]block.Name{}
	for w, content := range model {
		want[w] = block.Name(sha256.Sum256(fmt.Append(nil, content)))
	}
	return want
}

func buildRandom(rt *rapid.T, s *shelf, size int64, parent *Root, before map[int64]uint64) (Root, map[int64]uint64) {
	b, p := newBuilder(rt, s, size, parent)
	now := map[int64]uint64{}
	type mark struct {
		first, count int64
		how          int
	}
	var marks []mark
	for at := int64(0); at < Windows(size); {
		n := rapid.SampledFrom([]int64{1, 2, 100, 128, 1000, 16384, 20000}).Draw(rt, "run")
		n = min(n, Windows(size)-at)
		marks = append(marks, mark{at, n, rapid.IntRange(0, 2).Draw(rt, "how")})
		at += n
	}
	marks = rapid.Permutation(marks).Draw(rt, "order")
	for _, m := range marks {
		covered := p != nil
		for w := m.first; covered && w < m.first+m.count; w++ {
			covered = p.Covers(0, w, size)
		}
		switch {
		case m.how == 2 && covered:
			check(rt, b.Keep(m.first, m.count))
			for w := m.first; w < m.first+m.count; w++ {
				if c, ok := before[w]; ok {
					now[w] = c
				}
			}
		case m.how == 1 && m.count < 200:
			for w := m.first; w < m.first+m.count; w++ {
				now[w] = uint64(w % 7)
				check(rt, b.Set(context.Background(), w, s.leaf(now[w])))
			}
		default:
			check(rt, b.Zero(m.first, m.count))
		}
	}
	root, err := b.Finish(context.Background())
	check(rt, err)
	return root, now
}

func newBuilder(rt *rapid.T, s *shelf, size int64, parent *Root) (*Builder, *Parent) {
	var p *Parent
	if parent != nil {
		var err error
		p, err = NewParent(*parent, s.load)
		check(rt, err)
	}
	b, err := NewBuilder(size, p, s.save)
	check(rt, err)
	return b, p
}

func buildPlain(rt *rapid.T, s *shelf, size int64, model map[int64]uint64) Root {
	b, _ := newBuilder(rt, s, size, nil)
	for w := range Windows(size) {
		var leaf Ref
		if c, ok := model[w]; ok {
			leaf = s.leaf(c)
		}
		check(rt, b.Set(context.Background(), w, leaf))
	}
	root, err := b.Finish(context.Background())
	check(rt, err)
	return root
}

func check(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// 16 TiB: what is marked as a range is not touched window by window.
func TestHugeSparse(t *testing.T) {
	s := &shelf{nodes: map[block.Name][]byte{}}
	const size = 16 << 40
	last := Windows(size) - 1
	b, err := NewBuilder(size, nil, s.save)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Zero(0, 1<<20), b.Zero(1<<20+1, last-1<<20-1),
		b.Set(t.Context(), 1<<20, s.leaf(1)), b.Set(t.Context(), last, s.leaf(2))); err != nil {
		t.Fatal(err)
	}
	root, err := b.Finish(t.Context())
	if err != nil || root.Depth != 4 {
		t.Fatal(root, err)
	}
	parent, _ := NewParent(root, s.load)
	s.loads = 0
	b, _ = NewBuilder(size, parent, s.save)
	if err := errors.Join(b.Keep(0, 7), b.Set(t.Context(), 7, s.leaf(3)), b.Keep(8, last-7)); err != nil {
		t.Fatal(err)
	}
	changed, err := b.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.loads > 4 || len(s.nodes) > 20 {
		t.Errorf("%d nodes loaded, %d in all", s.loads, len(s.nodes))
	}
	want := leaves(s, map[int64]uint64{7: 3, 1 << 20: 1, last: 2})
	if diff := cmp.Diff(want, s.contents(t, changed)); diff != "" {
		t.Error(diff)
	}
}

func TestBuilderRefuses(t *testing.T) {
	s := &shelf{nodes: map[block.Name][]byte{}}
	ctx := t.Context()
	const size = 300 * block.WindowSize
	fresh := func() *Builder {
		b, err := NewBuilder(size, nil, s.save)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		do   func(b *Builder) error
		want error
	}{
		"missing":       {func(b *Builder) error { b.Zero(0, 299); _, err := b.Finish(ctx); return err }, ErrMissing},
		"nothing":       {func(b *Builder) error { _, err := b.Finish(ctx); return err }, ErrMissing},
		"twice":         {func(b *Builder) error { b.Zero(5, 1); return b.Set(ctx, 5, s.leaf(1)) }, ErrTwice},
		"twice whole":   {func(b *Builder) error { b.Zero(5, 1); return b.Zero(0, 300) }, ErrTwice},
		"twice in zero": {func(b *Builder) error { b.Zero(0, 300); return b.Zero(7, 1) }, ErrTwice},
		"beyond":        {func(b *Builder) error { return b.Zero(299, 2) }, ErrRange},
		"negative":      {func(b *Builder) error { return b.Zero(-1, 2) }, ErrRange},
		"overflow":      {func(b *Builder) error { return b.Zero(1, 1<<63-1) }, ErrRange},
		"no parent":     {func(b *Builder) error { return b.Keep(0, 1) }, ErrKeep},
	} {
		if err := c.do(fresh()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := NewBuilder(MaxSize+1, nil, s.save); err == nil {
		t.Error("a stream that is too large")
	}
}

func TestKeepOfAWindowCutElsewhere(t *testing.T) {
	s := &shelf{nodes: map[block.Name][]byte{}}
	b, _ := NewBuilder(block.WindowSize/2, nil, s.save)
	b.Set(t.Context(), 0, s.leaf(1))
	root, _ := b.Finish(t.Context())
	parent, _ := NewParent(root, s.load)
	b, _ = NewBuilder(block.WindowSize, parent, s.save)
	if err := b.Keep(0, 1); !errors.Is(err, ErrKeep) {
		t.Errorf("%v, want %v", err, ErrKeep)
	}
}

func TestConcurrentSet(t *testing.T) {
	s := &shelf{nodes: map[block.Name][]byte{}}
	const windows = 3000
	b, _ := NewBuilder(windows*block.WindowSize, nil, s.save)
	var wg sync.WaitGroup
	for part := range int64(4) {
		wg.Go(func() {
			for w := part; w < windows; w += 4 {
				if err := b.Set(t.Context(), w, s.leaf(uint64(w))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	root, err := b.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := len(maps.Collect(maps.All(s.contents(t, root)))); got != windows {
		t.Errorf("%d windows, want %d", got, windows)
	}
}

func TestWalkGoesOnPastBadNodes(t *testing.T) {
	s := &shelf{nodes: map[block.Name][]byte{}}
	b, _ := NewBuilder(300*block.WindowSize, nil, s.save)
	for w := range int64(300) {
		b.Set(t.Context(), w, s.leaf(uint64(w)))
	}
	root, _ := b.Finish(t.Context())
	delete(s.nodes, s.leaf(150).Name)
	bad, seen, where := 0, 0, Span{}
	w := Walker{
		Load: s.load,
		Leaf: func(int64, []Entry) error { seen++; return nil },
		Bad:  func(_ block.Name, at Span, _ error) error { bad, where = bad+1, at; return nil },
	}
	if err := w.Walk(t.Context(), root); err != nil || bad != 1 || seen != 299 || where != (Span{150, 1}) {
		t.Errorf("%v, %d bad, %d seen", err, bad, seen)
	}
}

// A walk beside a base tells each window once: as zeros, as the same, or with a leaf.
func TestWalkBesideBase(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := &shelf{nodes: map[block.Name][]byte{}}
		build := func(what string) Root {
			windows := rapid.Int64Range(0, 400).Draw(rt, what)
			b, _ := NewBuilder(windows*block.WindowSize, nil, s.save)
			for w := range windows {
				if v := rapid.Uint64Range(0, 2).Draw(rt, what+" window"); v == 0 {
					b.Set(t.Context(), w, Ref{})
				} else {
					b.Set(t.Context(), w, s.leaf(v))
				}
			}
			root, err := b.Finish(t.Context())
			if err != nil {
				rt.Fatal(err)
			}
			return root
		}
		base, root := build("base"), build("new")
		parent, err := NewParent(base, s.load)
		if err != nil {
			rt.Fatal(err)
		}
		old, want, told := s.contents(t, base), s.contents(t, root), map[int64]int{}
		entered, left := 0, 0
		w := Walker{
			Load: s.load, Base: parent,
			Enter: func(block.Name) (bool, error) { entered++; return true, nil },
			Leave: func(block.Name) error { left++; return nil },
			Leaf: func(window int64, entries []Entry) error {
				if told[window]++; entries[0].Name != want[window] || old[window] == want[window] && parent.Covers(0, window, root.Size) {
					rt.Errorf("leaf of window %d", window)
				}
				return nil
			},
			Zero: func(at Span) error {
				for i := range at.Count {
					if told[at.First+i]++; want[at.First+i] != (block.Name{}) {
						rt.Errorf("window %d is no zeros", at.First+i)
					}
				}
				return nil
			},
			Same: func(at Span) error {
				for i := range at.Count {
					if told[at.First+i]++; want[at.First+i] != old[at.First+i] {
						rt.Errorf("window %d is not the same", at.First+i)
					}
				}
				return nil
			},
		}
		if err := w.Walk(t.Context(), root); err != nil || entered != left {
			rt.Fatalf("%v, entered %d, left %d", err, entered, left)
		}
		for i := range Windows(root.Size) {
			if told[i] != 1 {
				rt.Errorf("window %d told %d times", i, told[i])
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	leaf := AppendLeaf(nil, []Entry{NewEntry(0, 8192, block.Name{1}), NewEntry(12288, 12800, block.Name{2})})
	f.Add(leaf, 0, 12800, int64(1))
	f.Add(appendNode(nil, 1, &Node{{Name: block.Name{1}, Data: 4096}, {}, {Name: block.Name{3}, Data: 8192}}), 1, 0, int64(3))
	f.Add([]byte{0, 255, 255}, 0, block.WindowSize, int64(1))
	f.Fuzz(func(t *testing.T, b []byte, level, length int, windows int64) {
		if entries, err := ParseLeaf(nil, b, length); err == nil {
			if again := AppendLeaf(nil, entries); !bytes.Equal(again, b) {
				t.Errorf("leaf %x came back as %x", b, again)
			}
		} else if !errors.Is(err, wire.ErrDamaged) {
			t.Error(err)
		}
		if level < 1 || level > MaxDepth {
			return
		}
		if n, err := parseNode(b, level, windows); err == nil {
			if again := appendNode(nil, level, n); !bytes.Equal(again, b) {
				t.Errorf("node %x came back as %x", b, again)
			}
		} else if !errors.Is(err, wire.ErrDamaged) {
			t.Error(err)
		}
	})
}
