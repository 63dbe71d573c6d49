package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// secretOf is the passphrase of a key that tests make.
func secretOf(label string) []byte { return []byte("the secret of " + label) }

// addKey makes a key with the roles, as the owner.
func addKey(t testing.TB, store blob.Store, label string, roles repo.Roles) {
	t.Helper()
	_, err := openRepo(t, store).AddKey(t.Context(), repo.NewKey{Label: label, Roles: roles, Passphrase: secretOf(label), Cost: cheap})
	if err != nil {
		t.Fatal(err)
	}
}

// openAs opens the repository with a key of a test.
func openAs(t testing.TB, store blob.Store, label string, o repo.OpenOptions) *repo.Repository {
	t.Helper()
	o.Passphrase, o.Label, o.Now = secretOf(label), label, clock
	return openWith(t, store, o)
}

// host is a machine that backs up with a key of its own that does nothing else, and all
// that it keeps on its disk.
type host struct {
	store *mem.Store
	log   *faults.Store
	disk  string
	key   []byte
}

func newHost(t *testing.T, store *mem.Store, label string) *host {
	t.Helper()
	addKey(t, store, label, repo.RoleBackup)
	h := &host{store: store, log: faults.New(store), disk: t.TempDir()}
	key, err := openRepo(t, store).ExportKey(t.Context(), label)
	if err != nil {
		t.Fatal(err)
	}
	h.key = key
	for name, b := range map[string][]byte{"key": key, "passphrase": secretOf(label)} {
		if err := os.WriteFile(filepath.Join(h.disk, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *host) open(t *testing.T, label string, d repo.Domain) *repo.Repository {
	t.Helper()
	return openAs(t, h.log, label, repo.OpenOptions{KeyFile: h.key, Cache: filepath.Join(h.disk, "cache"), Domain: d})
}

// again backs a disk up after what the host itself knows of the point before.
func again(t *testing.T, r *repo.Repository, vm string, disk []byte, hour int) repo.Point {
	t.Helper()
	p, err := onceMore(t.Context(), r, vm, disk, hour)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func onceMore(ctx context.Context, r *repo.Repository, vm string, disk []byte, hour int) (p repo.Point, err error) {
	before, err := r.Newest(ctx, vm)
	if err != nil {
		return p, err
	}
	at := clock().Add(hours(hour))
	s, err := r.Begin(ctx, vm, at)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var parent *repo.Root
	if len(before.Disks) > 0 {
		parent = &before.Disks[0].Root
	}
	root, err := backup(ctx, s, disk, parent)
	if err != nil {
		return p, err
	}
	return s.Commit(ctx, repo.Point{VM: vm, Frozen: at, Disks: []repo.Disk{{Root: root}}})
}

// A host that holds only a backup key deduplicates in full, and reads nothing of what is
// stored, its own restore points included.
func TestBackupKeyWritesAndCannotRead(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	h := newHost(t, store, "host1")
	disk := image(1, 3*block.WindowSize)
	copy(disk[5*block.PageSize:], bytes.Repeat([]byte("a line of plain text. "), 1000))
	r := h.open(t, "host1", repo.Domain{})
	first := again(t, r, "lab/web", disk, 0)
	copy(disk[block.WindowSize:], image(7, 3*block.PageSize))

	h.log.ClearLog()
	second := again(t, h.open(t, "host1", repo.Domain{}), "lab/web", disk, 1)
	if second.Parent != first.ID || second.ParentHash != first.Hash {
		t.Errorf("point after %q %s, want %q %s", second.Parent, second.ParentHash, first.ID, first.Hash)
	}
	if most := int64(20 * block.PageSize); second.Stats.New > most || second.Stats.New == 0 {
		t.Errorf("%d new bytes, want 1 to %d", second.Stats.New, most)
	}
	if strings.Contains(h.log.Log(), "read packs/") {
		t.Errorf("packs were read, which this key cannot open:\n%s", h.log.Log())
	}

	// What was kept is lost: everything is read, and known.
	if err := os.RemoveAll(filepath.Join(h.disk, "cache")); err != nil {
		t.Fatal(err)
	}
	third := again(t, h.open(t, "host1", repo.Domain{}), "lab/web", disk, 2)
	if third.Stats.New != 0 || third.Parent != second.ID {
		t.Errorf("%d new bytes after %s, want none after %s", third.Stats.New, third.Parent, second.ID)
	}

	h.wantBlind(t, third)
	h.wantNoPlaintext(t, disk)
	owner := openRepo(t, store)
	wantDisk(t, owner, third.Disks[0].Root, disk)
	wantClean(t, owner)
	points, err := owner.Points(t.Context(), "")
	if err != nil || len(points) != 3 || points[0].SignedBy != "host1" {
		t.Errorf("%+v, %v", points, err)
	}
}

// wantBlind fails if anything that reads succeeds.
func (h *host) wantBlind(t *testing.T, p repo.Point) {
	t.Helper()
	r := h.open(t, "host1", repo.Domain{})
	for name, read := range map[string]func() error{
		"points":       func() error { _, err := r.Points(t.Context(), ""); return err },
		"points of VM": func() error { _, err := r.Points(t.Context(), "lab/web"); return err },
		"restore":      func() error { _, err := restore(t.Context(), r, p.Disks[0].Root); return err },
		"new key": func() error {
			_, err := r.AddKey(t.Context(), repo.NewKey{Label: "x", Roles: repo.RoleOwner, Passphrase: []byte("x"), Cost: cheap})
			return err
		},
		"rotation": func() error { _, err := r.RotateKeys(t.Context()); return err },
		"removal":  func() error { _, err := r.RemoveKey(t.Context(), "owner"); return err },
	} {
		if err := read(); !errors.Is(err, repo.ErrRole) {
			t.Errorf("%s: %v, want %v", name, err, repo.ErrRole)
		}
	}
	if err := repo.OpenEverything(t.Context(), r); !errors.Is(err, repo.ErrRole) {
		t.Errorf("an object opened: %v", err)
	}
}

// wantNoPlaintext fails if any file of the host holds a piece of the disk.
func (h *host) wantNoPlaintext(t *testing.T, disk []byte) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(h.disk, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for at := 0; at < len(disk); at += block.PageSize {
			if piece := disk[at : at+16]; bytes.Contains(b, piece) {
				t.Errorf("%s holds what is on the disk at %d", path, at)
			}
		}
		if bytes.Contains(b, []byte("a line of plain")) {
			t.Errorf("%s holds text of the disk", path)
		}
		return nil
	})
	if err != nil || files < 4 {
		t.Errorf("%d files looked at, %v", files, err)
	}
}

// A key that maintains reads where everything is, and nothing of what it is.
func TestMaintainKeyReadsMapsOnly(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "keeper", repo.RoleMaintain)
	disk := image(1, 90*block.PageSize)
	p := mustCommit(t, openRepo(t, store), "lab/web", disk)
	r := openAs(t, store, "keeper", repo.OpenOptions{})
	points, err := r.Points(t.Context(), "lab/web")
	if err != nil || len(points) != 1 || points[0].ID != p.ID || points[0].Disks[0].Root != p.Disks[0].Root {
		t.Errorf("%+v, %v", points, err)
	}
	if err := repo.WalkMaps(t.Context(), r, p.Disks[0].Root); err != nil {
		t.Errorf("maps: %v", err)
	}
	if _, err := restore(t.Context(), r, p.Disks[0].Root); !errors.Is(err, repo.ErrRole) {
		t.Errorf("restore: %v, want %v", err, repo.ErrRole)
	}
	if _, err := r.Begin(t.Context(), "lab/web", clock()); !errors.Is(err, repo.ErrRole) {
		t.Errorf("backup: %v, want %v", err, repo.ErrRole)
	}
	report, err := r.Check(t.Context(), repo.CheckOptions{})
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("check: %+v, %v", report, err)
	}
}

// A removed key opens nothing any more, what it signs is refused, and what it signed
// before stays good. After a rotation a copy of its file does not open what is new.
func TestRemovedKey(t *testing.T) {
	now := clock()
	store := mem.NewAt(func() time.Time { now = now.Add(time.Second); return now })
	initRepo(t, store)
	addKey(t, store, "old", repo.RoleBackup|repo.RoleRestore)
	owner := openRepo(t, store)
	kept, err := owner.ExportKey(t.Context(), "old")
	if err != nil {
		t.Fatal(err)
	}
	stolen := openAs(t, store, "old", repo.OpenOptions{})
	before := mustCommit(t, stolen, "lab/web", image(1, block.WindowSize))
	if _, err := owner.RemoveKey(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	if made, err := owner.RotateKeys(t.Context()); err != nil || made.Epoch != 2 {
		t.Fatalf("epoch %d, %v", made.Epoch, err)
	}
	if _, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: secretOf("old")}); !errors.Is(err, repo.ErrPassphrase) {
		t.Errorf("its passphrase: %v, want %v", err, repo.ErrPassphrase)
	}
	fresh := openRepo(t, store)
	after := mustCommit(t, fresh, "lab/db", image(3, block.WindowSize))
	thief := openAs(t, store, "old", repo.OpenOptions{KeyFile: kept})
	if _, err := restore(t.Context(), thief, after.Disks[0].Root); !errors.Is(err, repo.ErrRole) {
		t.Errorf("what came after it: %v, want %v", err, repo.ErrRole)
	}
	wantDisk(t, thief, before.Disks[0].Root, image(1, block.WindowSize)) // no removal takes that back
	if _, err := commit(t.Context(), stolen, "lab/web", image(4, block.WindowSize)); err != nil {
		t.Fatal(err)
	}
	again := openRepo(t, store)
	points, err := again.Points(t.Context(), "lab/web")
	if !errors.Is(err, repo.ErrForged) || len(points) != 1 || points[0].ID != before.ID {
		t.Errorf("%d points, %v, want the old one and %v", len(points), err, repo.ErrForged)
	}
	wantDisk(t, again, before.Disks[0].Root, image(1, block.WindowSize))
	wantDisk(t, again, after.Disks[0].Root, image(3, block.WindowSize))
	all, err := again.Keys(t.Context())
	if err != nil || len(all) != 2 || all[0].Label != "old" || all[0].Removed.IsZero() {
		t.Errorf("%d keys, %v", len(all), err)
	}
}

// A rotation needs nobody's passphrase: the keys that stay open what comes after it.
func TestRotationReachesTheKeysThatStay(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	for label, roles := range map[string]repo.Roles{"reads": repo.RoleRestore, "keeps": repo.RoleMaintain, "writes": repo.RoleBackup} {
		addKey(t, store, label, roles)
	}
	for n := 2; n < 4; n++ {
		got, err := openRepo(t, store).RotateKeys(t.Context())
		want := repo.Rotation{Epoch: n, Readers: []string{"keeps", "owner", "reads"}}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("%v, not as wanted (-want +got):\n%s", err, diff)
		}
	}
	addKey(t, store, "late", repo.RoleRestore)
	disk := image(1, block.WindowSize)
	p := mustCommitAs(t, openAs(t, store, "writes", repo.OpenOptions{}), "lab/web", disk)
	wantDisk(t, openAs(t, store, "reads", repo.OpenOptions{}), p.Disks[0].Root, disk)
	wantDisk(t, openAs(t, store, "late", repo.OpenOptions{}), p.Disks[0].Root, disk)
	if points, err := openAs(t, store, "keeps", repo.OpenOptions{}).Points(t.Context(), ""); err != nil || len(points) != 1 {
		t.Errorf("%d points, %v", len(points), err)
	}
}

// mustCommitAs is mustCommit for a key that cannot list points.
func mustCommitAs(t *testing.T, r *repo.Repository, vm string, disk []byte) repo.Point {
	t.Helper()
	return again(t, r, vm, disk, 0)
}

func TestKeysAreNamedOnce(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "host1", repo.RoleBackup)
	r := openRepo(t, store)
	for label, want := range map[string]error{
		"host1": repo.ErrKeyExists, "owner": repo.ErrKeyExists, "": repo.ErrLabel, "Host": repo.ErrLabel, "a b": repo.ErrLabel,
	} {
		_, err := r.AddKey(t.Context(), repo.NewKey{Label: label, Roles: repo.RoleBackup, Passphrase: secretOf(label), Cost: cheap})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", label, err, want)
		}
	}
	if _, err := r.RemoveKey(t.Context(), "owner"); !errors.Is(err, repo.ErrLastOwner) {
		t.Errorf("remove the only owner: %v, want %v", err, repo.ErrLastOwner)
	}
	if _, err := r.RemoveKey(t.Context(), "nobody"); !errors.Is(err, repo.ErrNoKey) {
		t.Errorf("remove nobody: %v, want %v", err, repo.ErrNoKey)
	}
	if _, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase, Label: "nobody"}); !errors.Is(err, repo.ErrNoKey) {
		t.Errorf("open as nobody: %v, want %v", err, repo.ErrNoKey)
	}
}

func hours(n int) time.Duration { return time.Duration(n) * time.Hour }
