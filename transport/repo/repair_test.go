package repo_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// kindOf is the kind of a pack: 'D' or 'M'.
func kindOf(t *testing.T, store blob.Store, name string) byte {
	t.Helper()
	head, err := store.Read(t.Context(), name, 4, 1)
	if err != nil {
		t.Fatal(err)
	}
	return head[0]
}

// spoilData damages the first segment of every pack of disk data.
func spoilData(t *testing.T, store *mem.Store) {
	t.Helper()
	spoil(t, store, "packs/", func(name string) {
		if kindOf(t, store, name) == 'D' {
			damage(t, store, false)(name)
		}
	})
}

func check(t *testing.T, r *repo.Repository, o repo.CheckOptions) repo.CheckReport {
	t.Helper()
	report, err := r.Check(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// objects are the names under a prefix.
func objects(store *mem.Store, prefix string) (names []string) {
	for _, name := range store.Names() {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// What a check finds on one host, every other knows: its next backup stores it again,
// though that host has no doubts of its own.
func TestQuarantineIsKnownToAllHosts(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	disk := image(1, 3*block.WindowSize)
	other := openRepo(t, store)
	mustCommit(t, other, "lab/web", disk)
	spoilData(t, store)
	report := check(t, openRepo(t, store), repo.CheckOptions{ReadAll: true})
	if len(report.Problems) != 1 || len(report.Lost) != 1 || report.Lost[0].Bytes > repo.MaxSegment {
		t.Fatalf("%+v", report)
	}
	if n := len(objects(store, "quarantine/")); n != 1 {
		t.Fatalf("%d quarantines", n)
	}
	now := mustCommit(t, other, "lab/web", disk)
	if now.Stats.New != int64(len(disk)) {
		t.Errorf("%d bytes stored again, want all %d of the damaged pack", now.Stats.New, len(disk))
	}
	wantDisk(t, openRepo(t, store), now.Disks[0].Root, disk)
	// A second check finds the same and adds nothing.
	if report := check(t, openRepo(t, store), repo.CheckOptions{ReadAll: true}); len(report.Lost) != 0 {
		t.Errorf("lost %+v", report.Lost)
	}
	if n := len(objects(store, "quarantine/")); n != 1 {
		t.Errorf("%d quarantines", n)
	}
}

// A repair saves all but the segment that is damaged, says exactly what is lost, and
// leaves a repository without problems in which the next backup stores what was lost.
func TestRepairSavesWhatIsWhole(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	disk := image(1, 3*block.WindowSize)
	host := openRepo(t, store)
	old := mustCommit(t, host, "lab/web", disk)
	other := mustCommit(t, openRepo(t, store), "lab/other", image(7, block.WindowSize))
	before := objects(store, "packs/")
	spoilData(t, store)
	report := check(t, openRepo(t, store), repo.CheckOptions{ReadAll: true, Repair: true})
	if len(report.Problems) != 2 || len(report.Remaining) != 1 || len(report.Lost) != 2 || report.Repaired == nil || report.Repaired.Packs != 2 {
		t.Fatalf("%+v", report)
	}
	for _, l := range report.Lost {
		want := map[string]string{"lab/web": old.ID, "lab/other": other.ID}[l.VM]
		if l.Point != want || len(l.Holes) != 1 || l.Bytes != l.Holes[0].Length || l.Bytes > repo.MaxSegment {
			t.Errorf("lost %+v", l)
		}
	}
	r := openRepo(t, store)
	got, holes := salvage(t, r, old.Disks[0].Root)
	wantOutside(t, "repaired", got, disk, holes)
	if len(holes) != 1 || holes[0].Length != report.Lost[1].Bytes {
		t.Errorf("holes %+v", holes)
	}
	for _, name := range before {
		if kindOf(t, mustClone(t, store, name), name) == 'D' {
			t.Errorf("%s is still there", name)
		}
	}
	now := mustCommit(t, r, "lab/web", disk)
	if now.Stats.New != holes[0].Length {
		t.Errorf("%d bytes stored again, want what was lost, %d", now.Stats.New, holes[0].Length)
	}
	wantDisk(t, openRepo(t, store), now.Disks[0].Root, disk)
	wantDisk(t, openRepo(t, store), old.Disks[0].Root, disk) // it has the same blocks
	if report := check(t, openRepo(t, store), repo.CheckOptions{ReadAll: true}); len(report.Lost) != 1 {
		t.Errorf("lost %+v, want what nobody backed up again", report.Lost)
	}
}

// mustClone is store, in which a missing object has some content.
func mustClone(t *testing.T, store *mem.Store, name string) *mem.Store {
	t.Helper()
	c := store.Clone()
	if _, err := c.Stat(t.Context(), name); err != nil {
		c.Damage(name, func([]byte) []byte { return []byte("lullM") })
	}
	return c
}

// A host that has a hurt parent does not build on it after the repair, and one whose
// parent is whole does.
func TestHurtParentIsNotBuiltOn(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	hurt, whole := image(1, 2*block.WindowSize), image(2, 2*block.WindowSize)
	a, b := openRepo(t, store), openRepo(t, store)
	mustCommit(t, a, "lab/hurt", hurt)
	spoilData(t, store)
	good := mustCommit(t, b, "lab/whole", whole)
	check(t, openRepo(t, store), repo.CheckOptions{ReadAll: true, Repair: true})
	if n := len(objects(store, "quarantine/")); n != 1 {
		t.Fatalf("%d quarantines", n)
	}
	p := mustCommit(t, openRepo(t, store), "lab/hurt", hurt)
	wantDisk(t, openRepo(t, store), p.Disks[0].Root, hurt)
	f := faults.New(store)
	r := openRepo(t, f)
	s, err := r.Begin(t.Context(), "lab/whole", clock())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.Stream(t.Context(), good.Disks[0].Root.Size, &good.Disks[0].Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Keep(0, 2); err != nil {
		t.Errorf("a parent that is whole is not built on: %v", err)
	}
	if _, err := st.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	// Both points of lab/hurt have what was lost again: nothing is in doubt any more.
	check(t, openRepo(t, store), repo.CheckOptions{})
	if n := len(objects(store, "quarantine/")); n != 0 {
		t.Errorf("%d quarantines", n)
	}
}

// Index objects that are damaged or gone are made again from the packs.
func TestRepairRebuildsTheIndex(t *testing.T) {
	for _, remove := range []bool{true, false} {
		store := mem.New()
		initRepo(t, store)
		disk := image(1, 3*block.WindowSize)
		p := mustCommit(t, openRepo(t, store), "lab/web", disk)
		mustCommit(t, openRepo(t, store), "lab/other", image(7, block.WindowSize))
		spoil(t, store, "index/", damage(t, store, remove))
		report := check(t, openRepo(t, store), repo.CheckOptions{Repair: true})
		if report.Repaired == nil || report.Repaired.Listed != 4 || len(report.Lost) > 0 || len(report.Remaining) > 0 {
			t.Errorf("removed %t: %+v", remove, report)
		}
		r := openRepo(t, store)
		wantDisk(t, r, p.Disks[0].Root, disk)
		wantClean(t, r)
		if n := len(objects(store, "quarantine/")); n != 0 {
			t.Errorf("%d quarantines", n)
		}
	}
}

// A repair may end after every change that it makes: what was whole stays whole, and
// the next one ends the work.
func TestRepairCrashes(t *testing.T) {
	base := mem.New()
	initRepo(t, base)
	disk, small := image(1, block.WindowSize), image(7, 10*block.PageSize)
	p := mustCommit(t, openRepo(t, base), "lab/web", disk)
	spoilData(t, base)
	whole := mustCommit(t, openRepo(t, base), "lab/other", small)
	for n, crashed := 0, true; crashed; n++ {
		store := base.Clone()
		f := faults.New(store)
		r := openRepo(t, f)
		f.CrashAfter(n)
		_, err := r.Check(t.Context(), repo.CheckOptions{ReadAll: true, Repair: true})
		if crashed = f.Crashed(); !crashed && err != nil {
			t.Fatal(err)
		}
		wantDisk(t, openRepo(t, store), whole.Disks[0].Root, small)
		check(t, openRepo(t, store), repo.CheckOptions{ReadAll: true, Repair: true})
		got, holes := salvage(t, openRepo(t, store), p.Disks[0].Root)
		wantOutside(t, "crashed", got, disk, holes)
		if len(holes) != 1 || holes[0].Length > repo.MaxSegment {
			t.Errorf("after %d changes: holes %+v", n, holes)
		}
	}
}

// A sample reads about as much as it was told to, of whole packs.
func TestCheckSample(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	for i := range 12 {
		mustCommit(t, openRepo(t, store), "lab/web", image(uint64(i), block.WindowSize/2))
	}
	report := check(t, openRepo(t, store), repo.CheckOptions{Sample: 0.3})
	if report.Read < report.Stored*3/10 || report.Read > report.Stored/2 || len(report.Problems) > 0 {
		t.Errorf("read %d of %d, %+v", report.Read, report.Stored, report.Problems)
	}
	spoilData(t, store)
	found := check(t, openRepo(t, store), repo.CheckOptions{Sample: 0.5}).Problems
	if len(found) == 0 || len(found) >= 12 {
		t.Errorf("%d problems found by half", len(found))
	}
	for _, p := range found {
		if len(p.Points) != 1 {
			t.Errorf("%+v", p)
		}
	}
}

// Who may not delete is told, and index objects are not left half replaced in silence.
func TestRepairWithoutDelete(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	mustCommit(t, openRepo(t, store), "lab/web", image(1, block.WindowSize))
	spoilData(t, store)
	f := faults.New(store)
	f.Add(faults.Fault{Op: faults.Delete, Before: blob.ErrDenied})
	_, err := openRepo(t, f).Check(t.Context(), repo.CheckOptions{ReadAll: true, Repair: true})
	if !errors.Is(err, blob.ErrDenied) || !strings.Contains(err.Error(), "index/") {
		t.Errorf("error %v", err)
	}
	if report := check(t, openRepo(t, store), repo.CheckOptions{ReadAll: true}); slices.ContainsFunc(report.Lost, func(l repo.Loss) bool { return l.Bytes > repo.MaxSegment }) {
		t.Errorf("lost %+v", report.Lost)
	}
}
