package repo_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// victim is a repository of which somebody else holds the store, and a host that has
// seen it.
type victim struct {
	store *mem.Store
	cache string // of the host
	web   [3]repo.Point
	db    repo.Point
	disk  []byte
}

// hostile is what a store does, and what must come of it.
type hostile struct {
	do func(t *testing.T, v *victim)
	// stranger opens without any memory of the store.
	stranger bool
	open     error // of Open
	points   error // of Points
	begin    error // of Begin
	restore  error // of the newest point of lab/web
	check    bool  // Check must find it
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{store: mem.New(), cache: t.TempDir(), disk: image(1, 60*block.PageSize)}
	initRepo(t, v.store)
	addKey(t, v.store, "reader", repo.RoleRestore)
	addKey(t, v.store, "host1", repo.RoleBackup)
	addKey(t, v.store, "gone", repo.RoleBackup)
	owner := openRepo(t, v.store)
	for range 2 {
		if _, err := owner.RotateKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := owner.RemoveKey(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	r := v.open(t)
	for i := range v.web {
		copy(v.disk, image(uint64(10+i), block.PageSize))
		v.web[i] = mustCommit(t, r, "lab/web", v.disk)
	}
	v.db = mustCommit(t, r, "lab/db", image(5, 20*block.PageSize))
	return v
}

func (v *victim) open(t *testing.T) *repo.Repository {
	t.Helper()
	return openWith(t, v.store, repo.OpenOptions{Passphrase: passphrase, Cache: v.cache, Now: clock})
}

// object finds the one object of the store whose name has all parts.
func (v *victim) object(t *testing.T, parts ...string) string {
	t.Helper()
	return v.objects(t, 1, parts...)[0]
}

func (v *victim) objects(t *testing.T, n int, parts ...string) []string {
	t.Helper()
	var found []string
	for _, name := range v.store.Names() {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(name, strings.ToLower(p)) }) {
			found = append(found, name)
		}
	}
	if len(found) < n {
		t.Fatalf("%d objects with %q in their names, want %d", len(found), parts, n)
	}
	return found
}

func (v *victim) drop(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := v.store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

func (v *victim) read(t *testing.T, name string) []byte {
	t.Helper()
	return bytesOf(t, v.store, name)
}

// bytesOf is what an object holds.
func bytesOf(t *testing.T, store *mem.Store, name string) []byte {
	t.Helper()
	b, err := store.Read(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// swap exchanges the contents of two objects.
func (v *victim) swap(t *testing.T, a, b string) {
	t.Helper()
	x, y := v.read(t, a), v.read(t, b)
	v.store.Damage(a, func([]byte) []byte { return y })
	v.store.Damage(b, func([]byte) []byte { return x })
}

func cut(b []byte) []byte  { return b[:len(b)*2/3] }
func flip(b []byte) []byte { b[len(b)/2] ^= 4; return b }

// packs are the packs of a kind.
func (v *victim) packs(t *testing.T, kind byte) []string {
	t.Helper()
	return slices.DeleteFunc(v.objects(t, 1, "packs/"), func(name string) bool { return v.read(t, name)[4] != kind })
}

// hostiles is what a store may do that nobody but who holds the keys can stop.
func hostiles() map[string]hostile {
	forged, omitted, corrupt := repo.ErrForged, repo.ErrOmitted, repo.ErrCorrupt
	return map[string]hostile{
		"nothing": {},

		"points: exchanged": {do: func(t *testing.T, v *victim) {
			v.swap(t, v.object(t, "points/", v.web[0].ID), v.object(t, "points/", v.web[1].ID))
		}, points: forged, check: true},
		"points: of another VM": {do: func(t *testing.T, v *victim) {
			v.swap(t, v.object(t, "points/", v.web[1].ID), v.object(t, "points/", v.db.ID))
		}, points: forged, check: true},
		"points: changed": {do: func(t *testing.T, v *victim) {
			v.store.Damage(v.object(t, "points/", v.web[1].ID), flip)
		}, points: forged, check: true},
		"points: cut off": {do: func(t *testing.T, v *victim) {
			v.store.Damage(v.object(t, "points/", v.web[1].ID), cut)
		}, points: corrupt, check: true},
		"points: one left out": {do: func(t *testing.T, v *victim) {
			v.drop(t, v.object(t, "points/", v.web[1].ID))
		}, stranger: true, points: omitted, check: true},
		"points: newest left out, which this host has seen": {do: func(t *testing.T, v *victim) {
			v.drop(t, v.object(t, "points/", v.web[2].ID))
		}, points: omitted, check: true},
		"points: newest left out, which another VM's names": {do: func(t *testing.T, v *victim) {
			v.drop(t, v.object(t, "points/", v.web[2].ID))
		}, stranger: true, points: omitted, check: true},
		"points: a VM left out": {do: func(t *testing.T, v *victim) {
			v.drop(t, v.objects(t, 3, "points/", v.vmOf(v.web[0]))...)
		}, points: omitted, check: true},
		"points: all left out": {do: func(t *testing.T, v *victim) {
			v.drop(t, v.objects(t, 4, "points/")...)
		}, points: omitted, check: true},

		"packs: exchanged": {do: func(t *testing.T, v *victim) {
			p := v.packs(t, 'D')
			for i := range p {
				v.swap(t, p[i], p[(i+1)%len(p)])
			}
		}, restore: corrupt, check: true},
		"packs: nodes for data": {do: func(t *testing.T, v *victim) {
			d, m := v.packs(t, 'D'), v.packs(t, 'M')
			for i := range d {
				v.swap(t, d[i], m[i])
			}
		}, restore: corrupt, check: true},
		"packs: changed": {do: func(t *testing.T, v *victim) {
			for _, p := range v.packs(t, 'D') {
				v.store.Damage(p, flip)
			}
		}, restore: corrupt, check: true},
		"packs: signature changed": {do: func(t *testing.T, v *victim) {
			v.store.Damage(v.packs(t, 'D')[0], func(b []byte) []byte { b[len(b)-3] ^= 1; return b })
		}, check: true},
		"packs: cut off": {do: func(t *testing.T, v *victim) {
			for _, p := range v.packs(t, 'M') {
				v.store.Damage(p, cut)
			}
		}, restore: corrupt, check: true},
		"packs: left out": {do: func(t *testing.T, v *victim) { v.drop(t, v.packs(t, 'D')...) }, restore: corrupt, check: true},

		"index: exchanged": {do: func(t *testing.T, v *victim) {
			i := v.objects(t, 2, "index/")
			v.swap(t, i[0], i[1])
		}, stranger: true, check: true},
		"index: changed": {do: func(t *testing.T, v *victim) {
			v.store.Damage(v.objects(t, 1, "index/")[0], flip)
		}, stranger: true, check: true},
		"index: cut off": {do: func(t *testing.T, v *victim) {
			v.store.Damage(v.objects(t, 1, "index/")[0], cut)
		}, stranger: true, check: true},
		"index: left out": {do: func(t *testing.T, v *victim) {
			v.drop(t, v.objects(t, 1, "index/")...)
		}, stranger: true, restore: corrupt, check: true},

		"keys: all left out": {do: func(t *testing.T, v *victim) { v.drop(t, v.objects(t, 2, "keys/")...) }, open: corrupt},
		"keys: exchanged": {do: func(t *testing.T, v *victim) {
			k := v.objects(t, 3, "keys/")
			v.swap(t, k[0], k[1])
			v.swap(t, k[1], k[2])
		}, open: corrupt},
		"keys: changed": {do: func(t *testing.T, v *victim) {
			for _, k := range v.objects(t, 3, "keys/") {
				v.store.Damage(k, flip)
			}
		}, open: corrupt},
		"keys: cut off": {do: func(t *testing.T, v *victim) {
			for _, k := range v.objects(t, 3, "keys/") {
				v.store.Damage(k, cut)
			}
		}, open: corrupt},

		"config: left out": {do: func(t *testing.T, v *victim) { v.drop(t, "config") }, open: repo.ErrNoRepository},
		"config: another repository's": {do: func(t *testing.T, v *victim) {
			other := mem.New()
			initRepo(t, other)
			b, err := other.Read(t.Context(), "config", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			v.store.Damage("config", func([]byte) []byte { return b })
		}, open: corrupt},
		"config: cut off": {do: func(t *testing.T, v *victim) { v.store.Damage("config", cut) }, open: corrupt},

		"epochs: newest left out": {do: func(t *testing.T, v *victim) {
			v.drop(t, "epochs/00003")
		}, points: omitted, begin: omitted, check: true},
		"epochs: all left out": {do: func(t *testing.T, v *victim) {
			v.drop(t, "epochs/00002", "epochs/00003")
		}, points: omitted, begin: omitted, check: true},
		"epochs: first left out": {do: func(t *testing.T, v *victim) {
			v.drop(t, "epochs/00002")
		}, stranger: true, points: omitted, begin: omitted, check: true},
		"epochs: exchanged": {do: func(t *testing.T, v *victim) {
			v.swap(t, "epochs/00002", "epochs/00003")
		}, stranger: true, points: forged, begin: forged, check: true},
		"epochs: changed": {do: func(t *testing.T, v *victim) {
			v.store.Damage("epochs/00003", flip)
		}, stranger: true, points: forged, begin: forged, check: true},

		"revoked: left out": {do: func(t *testing.T, v *victim) { v.drop(t, v.object(t, "revoked/")) }, points: omitted, check: true},
		"revoked: changed": {do: func(t *testing.T, v *victim) {
			v.store.Damage(v.object(t, "revoked/"), flip)
		}, stranger: true, points: corrupt, check: true},
	}
}

func (v *victim) vmOf(p repo.Point) string {
	for _, name := range v.store.Names() {
		if strings.HasSuffix(name, strings.ToLower(p.ID)) {
			return strings.Split(name, "/")[1]
		}
	}
	return "nowhere"
}

// A store that exchanges, forges, cuts off, sets back or leaves out anything is caught.
func TestHostileStore(t *testing.T) {
	made := newVictim(t)
	for name, c := range hostiles() {
		t.Run(name, func(t *testing.T) {
			v := *made
			v.store = made.store.Clone()
			if c.do != nil {
				c.do(t, &v)
			}
			o := repo.OpenOptions{Passphrase: passphrase, Cache: made.cache, Label: "owner"}
			if c.open != nil {
				o.Label = ""
			}
			if c.stranger {
				o.Cache = ""
			}
			c.want(t, &v, o)
		})
	}
}

func (c *hostile) want(t *testing.T, v *victim, o repo.OpenOptions) {
	t.Helper()
	r, err := repo.Open(t.Context(), v.store, o)
	if !errors.Is(err, c.open) {
		t.Fatalf("open: %v, want %v", err, c.open)
	}
	if err != nil {
		return
	}
	defer r.Close()
	if _, err := r.Points(t.Context(), ""); !errors.Is(err, c.points) {
		t.Errorf("points: %v, want %v", err, c.points)
	}
	s, err := r.Begin(t.Context(), "lab/web", clock())
	if !errors.Is(err, c.begin) {
		t.Errorf("begin: %v, want %v", err, c.begin)
	}
	if err == nil {
		s.Close()
	}
	got, err := restore(t.Context(), r, v.web[2].Disks[0].Root)
	if !errors.Is(err, c.restore) {
		t.Errorf("restore: %v, want %v", err, c.restore)
	}
	if err == nil && !slices.Equal(got, v.disk) {
		t.Error("restored wrong")
	}
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadAll: true})
	if err != nil || len(report.Problems) > 0 != c.check {
		t.Errorf("check: %+v, %v", report.Problems, err)
	}
}

// A store that shows the removal of one key cannot hide another's.
func TestRemovalsAreToldApart(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	cache := t.TempDir()
	open := func() *repo.Repository {
		r, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase, Label: "owner", Cache: cache, Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	for _, label := range []string{"first", "second"} {
		addKey(t, store, label, repo.RoleBackup)
	}
	remove := func(label string) (record string) {
		before := store.Names()
		if _, err := openRepo(t, store).RemoveKey(t.Context(), label); err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(namesUnder(store, "revoked/"), func(n string) bool { return slices.Contains(before, n) })[0]
	}
	first := remove("first")
	if _, err := open().Points(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	remove("second")
	if err := store.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if _, err := open().Points(t.Context(), ""); !errors.Is(err, repo.ErrOmitted) {
		t.Errorf("%v, want %v", err, repo.ErrOmitted)
	}
}

// A store that is set back as a whole, consistent as it is, is caught by who has seen what
// came later: by a backup too, which goes on with a warning.
func TestStoreSetBack(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	cache := t.TempDir()
	open := func(s blob.Store) *repo.Repository {
		r, err := repo.Open(t.Context(), s, repo.OpenOptions{Passphrase: passphrase, Cache: cache, Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	first := mustCommit(t, open(store), "lab/web", image(1, 9*block.PageSize))
	old := store.Clone()
	mustCommit(t, open(store), "lab/web", image(2, 9*block.PageSize))
	r := open(old)
	p, err := r.Newest(t.Context(), "lab/web")
	if !errors.Is(err, repo.ErrOmitted) || p.ID != first.ID {
		t.Errorf("newest %s, %v, want %s and %v", p.ID, err, first.ID, repo.ErrOmitted)
	}
	if _, err := r.Points(t.Context(), "lab/web"); !errors.Is(err, repo.ErrOmitted) {
		t.Errorf("points: %v, want %v", err, repo.ErrOmitted)
	}
}

// endless is a store that lists without end.
type endless struct {
	blob.Store
	name string
}

func (s endless) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	for n := 0; ctx.Err() == nil; n++ {
		if err := fn(blob.Info{Name: prefix + s.name + strconv.Itoa(n)}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// A listing without end ends, and names that are none of lull's take no memory.
func TestListingsAreBounded(t *testing.T) {
	for _, name := range []string{"p", strings.Repeat("long", 100)} {
		infos, err := repo.ListUpTo(t.Context(), endless{mem.New(), name}, "packs/", 1000)
		if err == nil || len(infos) > 0 || !strings.Contains(hint(err), "credential") {
			t.Errorf("%d objects, %v: %q", len(infos), err, hint(err))
		}
	}
	wantListing(t)
	store := mem.New()
	initRepo(t, store)
	long := "points/" + strings.Repeat("0123456789abcdef", 10)
	if err := store.Create(t.Context(), long, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if points, err := openRepo(t, store).Points(t.Context(), ""); err != nil || len(points) > 0 {
		t.Errorf("%d points, %v", len(points), err)
	}
}

// crowded lists so many packs, and as many objects again whose names lull never makes.
type crowded struct {
	blob.Store
	packs int
}

func (s crowded) List(_ context.Context, prefix string, fn func(blob.Info) error) error {
	for n := range s.packs {
		for _, name := range []string{fmt.Sprintf("%02x/%02x%062x", n%256, n%256, n), fmt.Sprintf("zz/%064x", n)} {
			if err := fn(blob.Info{Name: prefix + name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// wantListing: the bound is of objects of lull's; of others only some are told of.
func wantListing(t *testing.T) {
	t.Helper()
	for packs, fails := range map[int]bool{5000: false, 5001: true} {
		infos, err := repo.ListUpTo(t.Context(), crowded{mem.New(), packs}, "packs/", 5000)
		if (err != nil) != fails || !fails && len(infos) != packs+1000 {
			t.Errorf("%d packs: %d objects, %v", packs, len(infos), err)
		}
	}
}
