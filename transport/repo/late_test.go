package repo_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/repo"
)

// What docs/format.md takes for granted of stores, that no creation is carried out a second
// time long after the object was deleted, is noticed where it is not so: what a forgotten
// point needed is gone, so check names it, and prune deletes nothing until it is forgotten
// again.
func TestForgottenPointThatComesBack(t *testing.T) {
	p, late := prunedPlace(t)
	object := objectOf(t, late, "points/", p.old.ID)
	restoreObject(t, late, p.store, object)
	err := p.with(t.Context(), p.store, func(r *repo.Repository) error {
		report := check(t, r, repo.CheckOptions{})
		if len(report.Problems) == 0 || len(report.Lost) != 1 || report.Lost[0].Point != p.old.ID {
			t.Errorf("check finds %+v", report)
		}
		before := len(p.store.Names())
		if _, err := r.Prune(t.Context(), repo.PruneOptions{}); !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), p.old.ID) {
			t.Errorf("prune: %v, want one that names %s", err, p.old.ID)
		}
		if after := len(p.store.Names()); after < before {
			t.Errorf("a prune that cannot know what is needed deletes %d objects", before-after)
		}
		return r.Forget(t.Context(), []repo.Point{p.old})
	})
	if err != nil {
		t.Fatal(err)
	}
	p.maintain()
	if err := errors.Join(p.failed, p.whole(t.Context(), "")); err != nil {
		t.Error(err)
	}
}

// The same of an index object whose packs are gone: check names it, and prunes drop it.
func TestDroppedIndexObjectThatComesBack(t *testing.T) {
	p, late := prunedPlace(t)
	there := map[string]bool{}
	for _, name := range p.store.Names() {
		there[name] = true
	}
	back := 0
	for _, name := range objects(late, "index/") {
		if !there[name] {
			restoreObject(t, late, p.store, name)
			back++
		}
	}
	if back == 0 {
		t.Fatal("no index object was dropped")
	}
	err := p.with(t.Context(), p.store, func(r *repo.Repository) error {
		if report := check(t, r, repo.CheckOptions{}); len(report.Problems) == 0 {
			t.Error("check finds nothing")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.forgetAnother(t); err != nil { // so that there is something to decide
		t.Fatal(err)
	}
	p.maintain()
	p.maintain()
	p.maintain()
	if err := errors.Join(p.failed, p.whole(t.Context(), "")); err != nil {
		t.Error(err)
	}
}

// prunedPlace is a place in which old was forgotten and pruned long ago, and its store before
// that.
func prunedPlace(t *testing.T) (*place, *mem.Store) {
	t.Helper()
	p := newPlace(t)
	late := p.store.Clone()
	if err := p.prune(t.Context(), p.store); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := p.forgetAnother(t); err != nil {
			t.Fatal(err)
		}
		p.maintain()
		p.maintain()
	}
	if err := errors.Join(p.failed, p.whole(t.Context(), "")); err != nil {
		t.Fatal(err)
	}
	return p, late
}

// forgetAnother makes a point and forgets it.
func (p *place) forgetAnother(t *testing.T) error {
	t.Helper()
	p.sleep(time.Hour)
	return p.with(t.Context(), p.store, func(r *repo.Repository) error {
		made, err := commit(t.Context(), r, "lab/other", digits(uint64(p.at.Unix()), 8192))
		if err != nil {
			return err
		}
		return r.Forget(t.Context(), []repo.Point{made})
	})
}

// restoreObject brings an object of one store into another.
func restoreObject(t *testing.T, from, to *mem.Store, name string) {
	t.Helper()
	if err := to.Create(t.Context(), name, bytesOf(t, from, name)); err != nil {
		t.Fatal(err)
	}
}

func objectOf(t *testing.T, store *mem.Store, prefix, id string) string {
	t.Helper()
	for _, name := range objects(store, prefix) {
		if strings.HasSuffix(name, strings.ToLower(id)) {
			return name
		}
	}
	t.Fatalf("no %s in %s", id, prefix)
	return ""
}
