package transport_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// point backs a disk up as a point of lab/web.
func point(t *testing.T, r *repo.Repository, d *disk, at time.Time) repo.Point {
	t.Helper()
	s, err := r.Begin(t.Context(), "lab/web", at)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := transport.Backup(t.Context(), s, d, nil, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := repo.Point{VM: "lab/web", Frozen: at, Disks: []repo.Disk{{Root: got.Root}}}
	p.Disks[0].Name = "root"
	if p, err = s.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// Copies keep id, time, content and origin; the second sends and reads what changed
// only; a disk restored from either repository is the same.
func TestCopy(t *testing.T) {
	const w = block.WindowSize
	from, to := open(t), open(t)
	at := time.Date(2026, 11, 21, 1, 30, 0, 500e6, time.UTC)
	d := &disk{size: 20*w + 512, data: map[int64][]byte{0: random(2 * w), 7 * w: random(4096), 20 * w: random(512)}}
	first := point(t, from, d, at)
	changed := random(8192)
	for i := range changed {
		changed[i] ^= 0x55
	}
	d2 := &disk{size: d.size, data: map[int64][]byte{0: bytes.Clone(d.data[0]), 7 * w: d.data[7*w], 20 * w: d.data[20*w]}}
	copy(d2.data[0][w+4096:], changed)
	second := point(t, from, d2, at.Add(time.Hour))

	var earlier []repo.Point
	var read int64
	for i, p := range []repo.Point{first, second} {
		read = 0
		got, err := transport.Copy(t.Context(), from, to, p, earlier, transport.Options{Progress: func(n int64) { read += n }, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		earlier = append(earlier, p)
		if got.ID != p.ID || !got.Frozen.Equal(p.Frozen) || got.Origin == nil || got.Origin.Point != p.ID || got.Origin.Repository != from.ID().String() {
			t.Errorf("copy %d: %+v", i, got)
		}
		if got.Disks[0].Root.Data != p.Disks[0].Root.Data || got.Disks[0].Root.Node == p.Disks[0].Root.Node {
			t.Errorf("root %+v of %+v", got.Disks[0].Root, p.Disks[0].Root)
		}
		want := []*disk{d, d2}[i]
		back := &disk{size: d.size, data: map[int64][]byte{}}
		if err := transport.Restore(t.Context(), to, got.Disks[0].Root, back, transport.Options{}); err != nil {
			t.Fatal(err)
		}
		wantSame(t, want, back)
		if i == 1 && (read != w || got.Stats.New == 0 || got.Stats.New > 1<<20 || got.Parent != first.ID) {
			t.Errorf("second copy read %d bytes, stored %d new, parent %s", read, got.Stats.New, got.Parent)
		}
	}
	if _, err := transport.Copy(t.Context(), from, to, second, earlier, transport.Options{}); err == nil {
		t.Error("there are two copies of one point")
	}
	report, err := to.Check(context.WithoutCancel(t.Context()), repo.CheckOptions{ReadAll: true})
	if err != nil || len(report.Problems) > 0 || report.Points != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}

// withKey opens the repository of a store with a key that it makes.
func withKey(t *testing.T, store blob.Store, label string, roles repo.Roles) *repo.Repository {
	t.Helper()
	owner := openStore(t, store, repo.OpenOptions{Passphrase: []byte("x")})
	_, err := owner.AddKey(t.Context(), repo.NewKey{Label: label, Roles: roles, Passphrase: []byte(label), Cost: repo.Cost{Time: 1, Memory: 64, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return openStore(t, store, repo.OpenOptions{Passphrase: []byte(label), Label: label})
}

func openStore(t *testing.T, store blob.Store, o repo.OpenOptions) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), store, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func newStore(t *testing.T) *mem.Store {
	t.Helper()
	store := mem.New()
	_, err := repo.Init(t.Context(), store, repo.InitOptions{Passphrase: []byte("x"), Cost: repo.Cost{Time: 1, Memory: 64, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// dawn is when the first backup of these tests was.
func dawn() time.Time { return time.Date(2026, 11, 21, 1, 30, 0, 500e6, time.UTC) }

// claim makes a point that says to be a copy.
func claim(t *testing.T, r *repo.Repository, id string, origin repo.Origin, d *disk) repo.Point {
	t.Helper()
	s, err := r.BeginCopy(t.Context(), "lab/web", id, origin)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := transport.Backup(t.Context(), s, d, nil, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := repo.Point{VM: "lab/web", Frozen: dawn(), Origin: &origin, Disks: []repo.Disk{{Root: got.Root}}}
	p.Disks[0].Name = "root"
	if p, err = s.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// A copy says whose the original is as the source's signatures tell, whatever that says
// itself; keys that only maintain see it. What a key says that maintains goes on with copies
// of copies.
func TestCopySaysWhoseItIs(t *testing.T) {
	source, target := newStore(t), newStore(t)
	evil := withKey(t, source, "evil", repo.RoleBackup)
	owner := openStore(t, source, repo.OpenOptions{Passphrase: []byte("x")})
	forged := repo.Origin{Repository: owner.ID().String(), Point: "20261121T013000Z-9f86d081", SignedBy: "good"}
	d := &disk{size: block.WindowSize, data: map[int64][]byte{0: random(4096)}}
	claim(t, evil, "20261121T013000Z-00000001", forged, d)
	claim(t, owner, "20261121T013000Z-00000002", forged, d)
	points, err := owner.Points(t.Context(), "")
	if err != nil || len(points) != 2 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	to := openStore(t, target, repo.OpenOptions{Passphrase: []byte("x")})
	for _, p := range points {
		if _, err := transport.Copy(t.Context(), owner, to, p, nil, transport.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	keeper := withKey(t, target, "keeper", repo.RoleMaintain)
	for _, r := range []*repo.Repository{to, keeper} {
		copies, err := r.Points(t.Context(), "")
		if err != nil || len(copies) != 2 {
			t.Fatalf("%d copies, %v", len(copies), err)
		}
		want := repo.Origin{Repository: owner.ID().String(), Point: points[0].ID, SignedBy: "evil", Hash: points[0].Hash}
		if o := copies[0].Origin; o == nil || *o != want {
			t.Errorf("%s sees that the copy is of %+v, want %+v", r.Label(), o, want)
		}
		if o := copies[1].Origin; o == nil || *o != forged {
			t.Errorf("%s sees that the copy of the owner's copy is of %+v, want %+v", r.Label(), o, forged)
		}
	}
}

// Neither a point of another key under the copy's id, nor one that says to be the copy, keeps
// a point from being copied, and nothing is taken from them unread; a copy by a key that
// maintains counts.
func TestCopyBesideWhatSaysToBeOne(t *testing.T) {
	source, target := newStore(t), newStore(t)
	from := openStore(t, source, repo.OpenOptions{Passphrase: []byte("x")})
	const w = block.WindowSize
	good := &disk{size: 4 * w, data: map[int64][]byte{0: random(w), 2 * w: random(4096)}}
	first := point(t, from, good, dawn())
	second := point(t, from, good, dawn().Add(time.Hour))
	evil := withKey(t, target, "evil", repo.RoleBackup)
	bad := &disk{size: good.size, data: map[int64][]byte{w: random(4096)}}
	claim(t, evil, first.ID, from.OriginOf(&first), bad)

	copier := withKey(t, target, "copier", repo.RoleBackup|repo.RoleRestore)
	for _, p := range []repo.Point{first, second} {
		got, err := transport.Copy(t.Context(), from, copier, p, []repo.Point{first}, transport.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if (got.ID == p.ID) != (p.ID == second.ID) {
			t.Errorf("the copy of %s is %s", p.ID, got.ID)
		}
		back := &disk{size: good.size, data: map[int64][]byte{}}
		if err := transport.Restore(t.Context(), copier, got.Disks[0].Root, back, transport.Options{}); err != nil {
			t.Fatal(err)
		}
		wantSame(t, good, back)
		if _, err := transport.Copy(t.Context(), from, copier, p, nil, transport.Options{}); !errors.Is(err, blob.ErrExists) {
			t.Errorf("a second copy: %v, want %v", err, blob.ErrExists)
		}
	}
	owner := openStore(t, target, repo.OpenOptions{Passphrase: []byte("x")})
	third := point(t, from, good, dawn().Add(2*time.Hour))
	if _, err := transport.Copy(t.Context(), from, owner, third, nil, transport.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.Copy(t.Context(), from, copier, third, nil, transport.Options{}); !errors.Is(err, blob.ErrExists) {
		t.Errorf("a copy beside the owner's: %v, want %v", err, blob.ErrExists)
	}
}
