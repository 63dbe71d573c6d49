package repo_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// goldenLife holds a repository of version 2 in the midst of its life: beside the points there
// is what sessions, maintenance and checks leave. It is never rewritten.
const goldenLife = "testdata/v2-life"

// lifeDisks are what is backed up, by VM: the last is what the VM's point has that stays. What
// the first disk of lab/web has is in its last at other places, so its data stays and its map
// does not; of the second nothing does.
func lifeDisks() map[string][][]byte {
	pattern := func(pages, shift int) []byte {
		disk := make([]byte, pages*block.PageSize)
		for i := range disk {
			disk[i] = byte(i >> shift * (i >> 12))
		}
		return disk
	}
	shifted := append(make([]byte, 2*block.PageSize), goldenDisk()...)
	return map[string][][]byte{
		"lab/web": {goldenDisk(), pattern(9, 4), shifted}, "lab/db": {pattern(7, 3)},
		"lab/late": {append(pattern(4, 2), pattern(7, 3)...)}, "lab/copied": {goldenDisk()},
	}
}

// lifetime makes a golden repository, by the clock of its store.
type lifetime struct {
	t     *testing.T
	store *mem.Store
	at    time.Time
	r     *repo.Repository // opened anew for each day
}

func (l *lifetime) now() time.Time { return l.at }

// pass lets time go by, and opens the repository again.
func (l *lifetime) pass(d time.Duration) {
	l.t.Helper()
	l.at = l.at.Add(d)
	o := repo.OpenOptions{Passphrase: passphrase, Now: l.now, Compression: repo.CompressFast, Padding: true}
	r, err := repo.Open(l.t.Context(), l.store, repo.Small(o))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { r.Close() })
	l.r = r
}

// backup makes a point of one disk; of a copy it says where that comes from.
func (l *lifetime) backup(vm string, disk []byte, origin *repo.Origin) repo.Point {
	l.t.Helper()
	l.pass(time.Hour)
	ctx := blob.WithNonce(l.t.Context())
	begin := func() (*repo.Session, error) { return l.r.Begin(ctx, vm, l.at) }
	if origin != nil {
		begin = func() (*repo.Session, error) { return l.r.BeginCopy(ctx, vm, origin.Point, *origin) }
	}
	s, err := begin()
	l.must(err)
	defer s.Close()
	root, err := backup(ctx, s, disk, nil)
	l.must(err)
	p, err := s.Commit(ctx, repo.Point{VM: vm, Frozen: l.at, Origin: origin, Disks: []repo.Disk{{Root: root}}})
	l.must(err)
	return p
}

func (l *lifetime) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// writeGoldenLife makes the repository: a removed key, a session that was given up, forgotten
// points, one of which could not be read, a mark that was carried out and one that is open, and
// a session and a prune under way.
func writeGoldenLife(t *testing.T) *mem.Store {
	t.Helper()
	cryptotest.SetGlobalRandom(t, 3)
	l := &lifetime{t: t, at: clock()}
	l.store = mem.NewAt(l.now)
	ctx, disks := blob.WithNonce(t.Context()), lifeDisks()
	initRepo(t, l.store)
	addKey(t, l.store, "gone", repo.RoleBackup)
	_, err := openRepo(t, l.store).RemoveKey(ctx, "gone")
	l.must(err)
	first := l.backup("lab/web", disks["lab/web"][0], nil)
	second := l.backup("lab/web", disks["lab/web"][1], nil)
	held := l.backup("lab/web", disks["lab/web"][2], nil)
	l.backup("lab/db", disks["lab/db"][0], nil)
	lost := l.backup("lab/lost", image(1, block.PageSize), nil)
	l.store.Damage(pointName(t, l.store, lost.ID), func(b []byte) []byte { return b[:len(b)/2] })
	l.pass(0)
	l.must(l.r.ForgetDamaged(ctx, "lab/lost", lost.ID))
	l.must(l.r.Hold(ctx, held, "golden"))
	away, err := l.r.Begin(ctx, "lab/away", l.at)
	l.must(err)
	for _, p := range []repo.Point{first, second} { // and mark 1 is carried out
		l.must(l.r.Forget(ctx, []repo.Point{p}))
		l.pass(30 * time.Hour)
		prune(t, l.r, repo.PruneOptions{})
	}
	l.must(away.Close())
	l.backup("lab/late", disks["lab/late"][0], nil)
	l.backup("lab/copied", disks["lab/copied"][0], &repo.Origin{
		Repository: strings.Repeat("0f", 16), Point: "20261122T013000Z-9f86d081", SignedBy: "host1", Hash: first.Hash,
	})
	return l.atWork()
}

// atWork is the store while a check has found damage, a session is under way, and a prune.
func (l *lifetime) atWork() *mem.Store {
	l.t.Helper()
	quarantined(l.t, l.store)
	s, err := l.r.Begin(l.t.Context(), "lab/web", l.at)
	l.must(err)
	l.must(repo.Renew(l.t.Context(), s))
	l.must(l.store.Delete(l.t.Context(), "leases/prune/1.1"))
	for _, suffix := range []string{"", ".1"} {
		l.must(repo.TakeLease(l.t.Context(), l.r, 3, suffix))
	}
	alive := l.store.CloneAt(l.now)
	l.must(s.Close())
	return alive
}

// kindsOfLife are the beginnings of names in a repository at work.
func kindsOfLife() []string {
	return []string{
		"sessions/", "marks/0000000000000001.done", "marks/0000000000000002", "marks/0000000000000002.sessions",
		"leases/prune/3", "leases/prune/3.1", "leases/prune/2.end", "holds/", "quarantine/", "forgotten/", "revoked/", "index/m",
	}
}

// lifeMuseum is the golden repository as those who read it find it.
func lifeMuseum(t *testing.T) *museum {
	t.Helper()
	later := clock().Add(100 * time.Hour)
	m := &museum{store: loadGolden(t, goldenLife), now: func() time.Time { return later }, disks: map[repo.Root][]byte{}}
	var err error
	if m.points, err = m.open(t, m.store).Points(t.Context(), ""); err != nil || len(m.points) != 4 {
		t.Fatalf("%d points, %v", len(m.points), err)
	}
	all := lifeDisks()
	for _, p := range m.points {
		disks := all[p.VM]
		m.disks[p.Disks[0].Root] = disks[len(disks)-1]
	}
	return m
}

func (m *museum) wantDisks(t *testing.T) {
	t.Helper()
	for _, p := range m.points {
		wantDisk(t, m.open(t, m.store), p.Disks[0].Root, m.disks[p.Disks[0].Root])
	}
}

// Everything that a repository at work has can be read, and its life goes on from there.
func TestGoldenLife(t *testing.T) {
	made := writeGoldenLife(t)
	if os.Getenv("LULL_GOLDEN") == "new" {
		saveGolden(t, goldenLife, made)
	}
	m := lifeMuseum(t)
	for _, kind := range kindsOfLife() {
		if len(objects(m.store, kind)) == 0 || len(objects(made, kind)) == 0 {
			t.Errorf("no %s", kind)
		}
	}
	if fence := m.fence(t); len(objects(m.store, fence)) == 0 {
		t.Errorf("no %s", fence)
	}
	if diff := cmp.Diff(kinds(m.store), kinds(made)); diff != "" {
		t.Error(diff)
	}
	doc, err := json.MarshalIndent(m.points, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "v2-life-points.json", string(doc)+"\n")
	r := m.open(t, m.store)
	if _, err := r.Prune(t.Context(), atOnce); !errors.Is(err, repo.ErrBusy) {
		t.Errorf("prune beside another: %v, want %v", err, repo.ErrBusy)
	}
	held, err := r.Holds(t.Context())
	if err != nil || len(held) != 1 {
		t.Errorf("held: %v, %v", held, err)
	}
	wantClean(t, r)
	m.wantDisks(t)
	m.goOn(t)
}

// goOn does with the repository what hosts do that find it: back up, check, carry mark 2 out.
func (m *museum) goOn(t *testing.T) {
	t.Helper()
	at := m.now()
	m.store = m.store.CloneAt(func() time.Time { return at })
	at = time.Now().Add(48 * time.Hour)
	disk := image(5, 20*block.PageSize)
	p := mustCommit(t, m.open(t, m.store), "lab/new", disk)
	m.disks[p.Disks[0].Root] = disk
	m.points = append(m.points, p)
	for range 2 {
		prune(t, m.open(t, m.store), atOnce)
	}
	if left := objects(m.store, "marks/0000000000000002"); !slices.Equal(left, []string{"marks/0000000000000002.done"}) {
		t.Errorf("mark 2 was not carried out: %q", left)
	}
	wantClean(t, m.open(t, m.store))
	m.wantDisks(t)
}

// The reader in another language restores all of its points.
func TestExampleReaderOfALife(t *testing.T) {
	m := lifeMuseum(t)
	for _, p := range m.points {
		out := filepath.Join(t.TempDir(), "disk.raw")
		runExample(t, string(passphrase), goldenLife, p.ID, "", out)
		wantRestored(t, out, m.disks[p.Disks[0].Root])
	}
}
