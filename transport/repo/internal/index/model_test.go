package index

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		m := &model{dir: dir, committed: map[Source]map[uint64]bool{}, own: map[uint64]bool{}}
		m.open(rt)
		defer func() { _ = m.x.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"insert": m.insert, "commit": m.commit, "discard": m.discard, "reopen": m.reopen, "vanish": m.vanish, "stale": m.stale, "": m.check,
		})
	})
}

// model is the index as plain maps.
type model struct {
	dir       string
	x         *Index
	s         *Session
	committed map[Source]map[uint64]bool
	own       map[uint64]bool
	ids       byte
}

func (m *model) open(t *rapid.T) {
	x, err := Open(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	x.cache.sync = noSync
	m.x, m.s, m.own = x, x.Session(), map[uint64]bool{}
	m.s.limit = 16
}

func (m *model) insert(t *rapid.T) {
	for _, p := range rapid.SliceOf(rapid.Uint64Range(0, 14)).Draw(t, "packs") {
		for i := p * packLen; i < (p+1)*packLen; i++ {
			e := entryOf(i)
			if err := m.s.Insert(context.Background(), e.Name, e.Location); err != nil {
				t.Fatal(err)
			}
			m.own[i] = true
		}
	}
}

func (m *model) commit(t *rapid.T) {
	m.ids++
	if err := m.s.Commit(context.Background(), Source{m.ids}); err != nil {
		t.Fatal(err)
	}
	m.committed[Source{m.ids}], m.own = m.own, map[uint64]bool{}
}

func (m *model) discard(t *rapid.T) {
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.own = map[uint64]bool{}
}

func (m *model) reopen(t *rapid.T) {
	if err := errors.Join(m.s.Close(), m.x.Close()); err != nil {
		t.Fatal(err)
	}
	m.open(t)
}

// vanish removes an index object and adds what is missing then.
func (m *model) vanish(t *rapid.T) {
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.own = map[uint64]bool{}
	if len(m.committed) > 0 && rapid.Bool().Draw(t, "remove") {
		delete(m.committed, Source{rapid.ByteRange(1, m.ids).Draw(t, "id")})
	}
	missing, err := m.x.Reconcile(m.present())
	if err != nil {
		t.Fatal(err)
	}
	m.add(t, missing)
	m.exact(t)
}

// stale is a list of objects that omits some, and then one that does not.
func (m *model) stale(t *rapid.T) {
	var seen []Source
	for _, id := range m.present() {
		if rapid.Bool().Draw(t, "seen") {
			seen = append(seen, id)
		}
	}
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.own = map[uint64]bool{}
	missing, err := m.x.Reconcile(seen)
	if err != nil {
		t.Fatal(err)
	}
	m.add(t, missing)
	for range rapid.IntRange(0, 3).Draw(t, "commits") {
		m.insert(t)
		m.commit(t)
	}
	if missing, err = m.x.Missing(m.present()); err != nil {
		t.Fatal(err)
	}
	m.add(t, missing)
	m.exact(t)
}

// present is the index objects in the store.
func (m *model) present() (ids []Source) {
	for id := range m.committed {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b Source) int { return compareSources(&a, &b) })
	return ids
}

func (m *model) add(t *rapid.T, missing []Source) {
	for _, id := range missing {
		err := m.x.Add(context.Background(), id, func(yield func(Entry, error) bool) {
			for i := range m.committed[id] {
				if !yield(entryOf(i), nil) {
					return
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// exact: after Reconcile and Add the index holds what the objects hold.
func (m *model) exact(t *rapid.T) {
	for i := range uint64(150) {
		held := false
		for _, set := range m.committed {
			held = held || set[i]
		}
		loc, ok, err := m.x.Lookup(nameOf(i))
		if err != nil || ok != held || (ok && loc != entryOf(i).Location) {
			t.Fatalf("look up %d: %v %v %v, want %v", i, loc, ok, err, held)
		}
	}
}

// check: nothing that was committed or inserted is ever lost.
func (m *model) check(t *rapid.T) {
	sets := []map[uint64]bool{m.own}
	for _, set := range m.committed {
		sets = append(sets, set)
	}
	for _, set := range sets {
		for i := range set {
			if loc, ok, err := m.s.Lookup(nameOf(i)); err != nil || !ok || loc != entryOf(i).Location {
				t.Fatalf("look up %d: %v %v %v", i, loc, ok, err)
			}
		}
	}
}
