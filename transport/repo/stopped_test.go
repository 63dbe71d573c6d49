package repo_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// hint is what an error advises.
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// besieged is a repository with a point of a good host and some of an evil one: one that
// needs what is not there, one that cannot be opened, one that is whole, one that is held,
// and one that nobody has signed. It returns the ids of those of the evil one.
func besieged(t *testing.T) (store *mem.Store, good repo.Point, lost, closed, whole, held, garbage string) {
	t.Helper()
	store = mem.New()
	initRepo(t, store)
	for _, label := range []string{"good", "evil"} {
		addKey(t, store, label, repo.RoleBackup)
	}
	good = again(t, openAs(t, store, "good", repo.OpenOptions{}), "lab/web", image(1, block.WindowSize), 0)
	evil := openAs(t, store, "evil", repo.OpenOptions{Domain: repo.Domain{Own: true}})
	whole = again(t, evil, "lab/db", image(2, block.PageSize), 1).ID
	last := again(t, evil, "lab/db", image(3, block.PageSize), 2)
	held = last.ID
	if err := openRepo(t, store).Hold(t.Context(), last, "evidence"); err != nil {
		t.Fatal(err)
	}
	s, err := evil.Begin(t.Context(), "lab/web", clock().Add(hours(3)))
	if err != nil {
		t.Fatal(err)
	}
	root := repo.Root{Size: block.WindowSize, Node: block.Name{6, 6, 6}, Data: block.PageSize}
	p, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Frozen: clock().Add(hours(3)), Disks: []repo.Disk{{Root: root}}})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	closed, garbage = "20261121T053000Z-00000001", "20261121T053000Z-00000002"
	folder, _, _ := strings.Cut(pointName(t, store, good.ID)[len("points/"):], "/")
	if err := repo.GarbagePoint(t.Context(), evil, "points/"+folder+"/"+strings.ToLower(closed)); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context(), "points/"+folder+"/"+strings.ToLower(garbage), []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	return store, good, p.ID, closed, whole, held, garbage
}

// Points that a host has made which was taken over stop maintenance. It says which, and what
// gets rid of them: of each, and of all that the host has signed.
func TestForgetAllThatAKeySigned(t *testing.T) {
	store, good, lost, closed, whole, held, garbage := besieged(t)
	addKey(t, store, "keeper", repo.RoleMaintain)
	keeper := func() *repo.Repository { return openAs(t, store, "keeper", repo.OpenOptions{}) }
	_, err := keeper().Prune(t.Context(), atOnce)
	if !errors.Is(err, repo.ErrCorrupt) {
		t.Fatalf("%v, want %v", err, repo.ErrCorrupt)
	}
	for _, want := range []string{"lull forget --damaged " + closed + "," + garbage, "lull forget --all --signed-by evil"} {
		if !strings.Contains(hint(err), want) {
			t.Errorf("the hint %q has no %q", hint(err), want)
		}
	}
	points, err := keeper().SignedBy(t.Context(), "evil")
	if err != nil {
		t.Fatal(err)
	}
	saw := map[string]string{}
	for _, p := range points {
		what := "goes"
		switch {
		case p.Held != nil:
			what = "held"
		case p.Damaged != nil:
			what = "damaged"
		case p.Only:
			what = "only"
		}
		saw[p.ID] = what
	}
	for id, want := range map[string]string{lost: "goes", closed: "damaged", whole: "only", held: "held"} {
		if saw[id] != want || len(saw) != 4 {
			t.Errorf("%s: %q, want %q, of %v", id, saw[id], want, saw)
		}
	}
	if err := keeper().ForgetSigned(t.Context(), points); err != nil {
		t.Fatal(err)
	}
	if _, err := keeper().Prune(t.Context(), atOnce); !strings.HasPrefix(hint(err), "get back") || strings.Contains(hint(err), "evil") {
		t.Errorf("%v: %q, want only what nobody has signed", err, hint(err))
	}
	if err := keeper().ForgetDamaged(t.Context(), "", garbage); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		prune(t, keeper(), atOnce)
	}
	r := openRepo(t, store)
	wantClean(t, r)
	wantDisk(t, r, good.Disks[0].Root, image(1, block.WindowSize))
	if all, err := r.Points(t.Context(), ""); err != nil || len(all) != 2 {
		t.Errorf("%d points, %v", len(all), err)
	}
}

// A point whose map is not there is named, with the way to be rid of it.
func TestPruneNamesThePointThatHasLostItsMap(t *testing.T) {
	store, _, lost, closed, _, _, garbage := besieged(t)
	for _, id := range []string{closed, garbage} {
		if err := openRepo(t, store).ForgetDamaged(t.Context(), "", id); err != nil {
			t.Fatal(err)
		}
	}
	_, err := openRepo(t, store).Prune(t.Context(), atOnce)
	if !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), lost) ||
		!strings.Contains(hint(err), "lull forget --point "+lost+" --even-last") || !strings.Contains(hint(err), "--signed-by evil") {
		t.Errorf("%v: %s", err, hint(err))
	}
}

// A label that two keys have had is not enough to let points go, the signer is.
func TestSignedByTellsKeysApart(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	var signers []string
	for n := range 2 {
		addKey(t, store, "host", repo.RoleBackup)
		again(t, openAs(t, store, "host", repo.OpenOptions{}), "lab/web", image(1, block.PageSize), n)
		k, err := openRepo(t, store).RemoveKey(t.Context(), "host")
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, k.Signer)
	}
	r := openRepo(t, store)
	if _, err := r.SignedBy(t.Context(), "host"); !errors.Is(err, repo.ErrSigners) {
		t.Errorf("%v, want %v", err, repo.ErrSigners)
	}
	for _, signer := range signers {
		if points, err := r.SignedBy(t.Context(), signer, "lab/web"); err != nil || len(points) != 1 {
			t.Errorf("%d points, %v", len(points), err)
		}
	}
	if _, err := r.SignedBy(t.Context(), "nobody"); !errors.Is(err, repo.ErrNoKey) {
		t.Errorf("%v, want %v", err, repo.ErrNoKey)
	}
}
