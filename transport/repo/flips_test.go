package repo_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// Each bit that is flipped, in any object of any kind and any format, is found by a check of
// everything, whatever else is damaged at the same time; no object is blamed that is whole;
// and no restore brings out anything but what was backed up. Every round flips a bit in
// about half of all objects.
func TestBitFlips(t *testing.T) {
	all := newMuseum(t)
	for _, test := range []struct {
		name   string
		museum *museum
		rounds int
	}{
		{"format 2", all, 170},
		{"format 2, golden", goldenMuseum(t, goldenDir2), 30},
		{"format 1, golden", goldenMuseum(t, goldenDir1), 50},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := test.museum.flip(t, test.rounds)
			t.Logf("%d bits in %d objects", n, len(test.museum.store.Names()))
		})
	}
}

// museum is a repository and what is in it.
type museum struct {
	store  *mem.Store
	now    func() time.Time
	points []repo.Point
	disks  map[repo.Root][]byte
}

// kindsOfObjects are the beginnings of the names of all objects that there are.
func kindsOfObjects() []string {
	return []string{
		"config", "keys/", "packs/", "index/", "points/", "epochs/", "revoked/", "forgotten/", "quarantine/", "holds/",
		"sessions/", "marks/0000000000000001.done", "marks/0000000000000002", "marks/0000000000000002.sessions",
		"leases/prune/2", "leases/prune/2.end", "index/m",
	}
}

// newMuseum has objects of all kinds: of a fence, a mark and a lease all that there is.
func newMuseum(t *testing.T) *museum {
	t.Helper()
	at := clock()
	m := &museum{now: func() time.Time { return at }, disks: map[repo.Root][]byte{}}
	m.store = mem.NewAt(m.now)
	initRepo(t, m.store)
	addKey(t, m.store, "host1", repo.RoleBackup)
	addKey(t, m.store, "gone", repo.RoleBackup|repo.RoleMaintain)
	owner := openRepo(t, m.store)
	if _, err := owner.RemoveKey(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.RotateKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := m.open(t, m.store)
	commit := func(vm string, disk []byte) repo.Point {
		p := mustCommit(t, r, vm, disk)
		m.disks[p.Disks[0].Root] = disk
		return p
	}
	first, second := commit("lab/web", image(1, 30*block.PageSize)), commit("lab/web", image(2, 30*block.PageSize))
	// The data of the first lives on, its map does not: its index object is written anew.
	disk := append(image(1, 30*block.PageSize), image(3, block.WindowSize)...)
	clear(disk[40*block.PageSize : block.WindowSize])
	commit("lab/web", disk)
	commit("lab/db", image(4, 3*block.PageSize))
	away, err := r.Begin(t.Context(), "lab/away", at)
	if err != nil {
		t.Fatal(err)
	}
	// Mark 1 is carried out, mark 2 is open.
	for _, p := range []repo.Point{first, second} {
		if err := r.Forget(t.Context(), []repo.Point{p}); err != nil {
			t.Fatal(err)
		}
		at = at.Add(30 * time.Hour)
		prune(t, r, repo.PruneOptions{})
	}
	if err := away.Close(); err != nil {
		t.Fatal(err)
	}
	if m.points, err = r.Points(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := r.Hold(t.Context(), m.points[0], "museum"); err != nil {
		t.Fatal(err)
	}
	quarantined(t, m.store)
	s := begin(t, r)
	if err := repo.Renew(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	m.store = m.store.CloneAt(m.now) // in which the session does not end
	for _, kind := range append(kindsOfObjects(), m.fence(t)) {
		if len(objects(m.store, kind)) == 0 {
			t.Fatalf("no %s in %q", kind, m.store.Names())
		}
	}
	wantClean(t, m.open(t, m.store))
	return m
}

// fence is the fence in place of an index object of the session that has another in place of
// its point.
func (m *museum) fence(t *testing.T) string {
	t.Helper()
	for _, name := range objects(m.store, "points/") {
		if !slices.ContainsFunc(m.points, func(p repo.Point) bool { return strings.HasSuffix(name, strings.ToLower(p.ID)) }) {
			return "index/" + strings.ReplaceAll(strings.TrimPrefix(name, "points/"), "/", ".") + ".0"
		}
	}
	t.Fatal("no fence")
	return ""
}

func goldenMuseum(t *testing.T, dir string) *museum {
	t.Helper()
	m := &museum{store: loadGolden(t, dir), now: clock, disks: map[repo.Root][]byte{}}
	var err error
	if m.points, err = m.open(t, m.store).Points(t.Context(), ""); err != nil || len(m.points) == 0 {
		t.Fatalf("%d points, %v", len(m.points), err)
	}
	for _, p := range m.points {
		m.disks[p.Disks[0].Root] = goldenDisk()
	}
	return m
}

func (m *museum) open(t *testing.T, store *mem.Store) *repo.Repository {
	t.Helper()
	return openWith(t, store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: m.now}))
}

// flip flips bits in so many rounds, and returns how many.
func (m *museum) flip(t *testing.T, rounds int) (flipped int) {
	t.Helper()
	before := &free{Store: m.store}
	r, err := repo.Open(t.Context(), before, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: m.now}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	restored, refused := 0, 0
	for range rounds {
		store := m.store.CloneAt(m.now)
		var bad []string
		for _, name := range m.store.Names() {
			if rng.IntN(2) == 0 {
				store.Damage(name, func(b []byte) []byte { return flipOne(rng, b) })
				bad = append(bad, name)
			}
		}
		before.through(store.CloneAt(m.now))
		m.wantFound(t, r, bad)
		// As it is, hardly ever does a host that has seen nothing yet even open it.
		m.wantRightOrNothing(t, store)
		for _, name := range bad {
			if neededToOpen(name) {
				store.Damage(name, func([]byte) []byte { return bytesOf(t, m.store, name) })
			}
		}
		right, nothing := m.wantRightOrNothing(t, store)
		restored, refused = restored+right, refused+nothing
		flipped += len(bad)
		if t.Failed() {
			break
		}
	}
	if restored == 0 || refused == 0 {
		t.Errorf("%d restores came out right, %d did not come out: want some of both", restored, refused)
	}
	return flipped
}

// neededToOpen tells of an object without which no key can be used.
func neededToOpen(name string) bool {
	return name == "config" || strings.HasPrefix(name, "keys/") || strings.HasPrefix(name, "epochs/") || strings.HasPrefix(name, "revoked/")
}

// flipOne flips one bit, half of the times near an end, where prefixes, sealed keys,
// certificates and signatures are.
func flipOne(rng *rand.Rand, b []byte) []byte {
	at := rng.IntN(len(b))
	if near := min(96, len(b)); rng.IntN(2) == 0 {
		at = rng.IntN(near)
		if rng.IntN(2) == 0 {
			at = len(b) - 1 - at
		}
	}
	b[at] ^= 1 << rng.IntN(8)
	return b
}

// wantFound fails unless a check finds what is bad, and blames no object that is whole.
func (m *museum) wantFound(t *testing.T, r *repo.Repository, bad []string) {
	t.Helper()
	report := check(t, r, repo.CheckOptions{ReadAll: true})
	var found []string
	for _, p := range report.Problems {
		found = append(found, p.Object)
	}
	for _, name := range m.store.Names() {
		is, says := slices.Contains(bad, name), slices.Contains(found, name)
		if is && !says {
			t.Errorf("a bit is flipped in %s, and check does not find it", name)
		}
		if says && !is {
			t.Errorf("%s is whole, and check says otherwise: %+v", name, report.Problems)
		}
	}
}

// wantRightOrNothing restores all points, as a host that has seen nothing yet, and tells how
// many came out and how many did not.
func (m *museum) wantRightOrNothing(t *testing.T, store *mem.Store) (right, nothing int) {
	t.Helper()
	r, err := repo.Open(t.Context(), store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: m.now}))
	if errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrVersion) {
		return 0, len(m.points)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, p := range m.points {
		got, err := restore(t.Context(), r, p.Disks[0].Root)
		switch {
		case errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrVersion):
			nothing++
		case err != nil:
			t.Errorf("restore: %v", err)
		case !bytes.Equal(got, m.disks[p.Disks[0].Root]):
			t.Errorf("point %s restored wrong", p.ID)
		default:
			right++
		}
	}
	return right, nothing
}
