package repo_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/blob/dir"
	"github.com/lull-backup/lull/transport/repo"
)

// exampleReader reads repositories from docs/format.md alone, in another language.
const exampleReader = "../../docs/examples/reader/lull_reader.py"

// The format document is enough to write a reader: one that shares no code with
// this package restores a disk of each version, under each kind of key that reads.
func TestExampleReader(t *testing.T) {
	for _, c := range []struct{ dir, point, secret string }{
		{goldenDir1, "20261121T013000Z-f612dd79", string(passphrase)},
		{goldenDir2, "20261121T023000Z-65e43718", string(passphrase)},
		{goldenDir2, "20261121T033000Z-7ad05b97", string(passphrase)},
		{goldenDir2, "20261121T033000Z-7ad05b97", "the secret of office"}, // granted the keys of a later epoch
	} {
		out := filepath.Join(t.TempDir(), "disk.raw")
		runExample(t, c.secret, c.dir, c.point, "root", out)
		wantRestored(t, out, goldenDisk())
	}
}

// What a removed key had signed is read, and nothing that came later.
func TestExampleReaderOfARemovedKey(t *testing.T) {
	const good, late = "20261121T013000Z-c8370d67", "20261121T023000Z-71e8fae3"
	out := filepath.Join(t.TempDir(), "disk.raw")
	runExample(t, string(passphrase), goldenRemoved, good, "", out)
	wantRestored(t, out, goldenDisk())
	if listed, err := example(t, string(passphrase), goldenRemoved).Output(); err != nil || bytes.Contains(listed, []byte(late)) {
		t.Errorf("%v: listed are\n%s", err, listed)
	}
}

func wantRestored(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the restored disk is another one", path)
	}
}

// A key that may not read does not.
func TestExampleReaderRoles(t *testing.T) {
	for _, label := range []string{"host1", "keeper"} {
		if out, err := example(t, "the secret of "+label, goldenDir2).CombinedOutput(); err == nil {
			t.Errorf("%s reads: %s", label, out)
		}
	}
}

// Every method of compression that is written can be read.
func TestExampleReaderUnpacks(t *testing.T) {
	for _, level := range repo.Compressions() {
		t.Run(string(level), func(t *testing.T) {
			disk := textDisk()
			dir, point := storedIn(t, level, disk)
			out := filepath.Join(t.TempDir(), "disk.raw")
			runExample(t, string(passphrase), dir, point, "root", out)
			wantRestored(t, out, disk)
		})
	}
}

// A pack with one bit flipped is refused, not restored.
func TestExampleReaderFindsDamage(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(goldenDir1)); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	for _, pack := range packs {
		b, err := os.ReadFile(pack)
		if err != nil {
			t.Fatal(err)
		}
		b[1300] ^= 1 // in the first segment
		if err := os.WriteFile(pack, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := example(t, string(passphrase), dir, "20261121T013000Z-f612dd79", "root", filepath.Join(dir, "out"))
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("restored from damaged packs: %s", out)
	}
}

// Who maintains puts fences in place of what is never to come, and nobody puts one in place
// of what is there.
func TestExampleReaderAndFences(t *testing.T) {
	folder, point := storedIn(t, repo.CompressFast, textDisk())
	store, err := dir.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	r := openRepo(t, store)
	s, err := r.Begin(t.Context(), "web", clock())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// The times of files are coarse: a session of this very moment is given up by a later prune.
	for fenced, end := 0, time.Now().Add(time.Minute); fenced == 0; fenced = prune(t, r, atOnce).Fenced {
		if time.Now().After(end) {
			t.Fatal("the session is not given up")
		}
	}
	if out, err := example(t, string(passphrase), folder).CombinedOutput(); err != nil || !bytes.Contains(out, []byte(point)) {
		t.Fatalf("%v: %s", err, out)
	}
	points, err := filepath.Glob(filepath.Join(folder, "points", "*", "*"))
	if err != nil || len(points) != 2 {
		t.Fatal(points, err)
	}
	fence, of := points[0], points[1]
	if filepath.Base(fence) == strings.ToLower(point) {
		fence, of = of, fence
	}
	b, err := os.ReadFile(fence)
	if err == nil {
		err = os.WriteFile(of, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := example(t, string(passphrase), folder).CombinedOutput(); err == nil {
		t.Errorf("another's fence hides a point: %s", out)
	}
}

// storedIn is a repository in a folder that holds one disk, and the id of its point.
func storedIn(t *testing.T, c repo.Compression, disk []byte) (folder, point string) {
	t.Helper()
	folder = t.TempDir()
	store, err := dir.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	initRepo(t, store)
	r, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase, Now: clock, Compression: c})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, err := r.Begin(t.Context(), "web", clock())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	root, err := backup(t.Context(), s, disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Commit(t.Context(), repo.Point{VM: "web", Disks: []repo.Disk{{Disk: snapshot.Disk{Name: "root", Size: root.Size}, Root: root}}})
	if err != nil {
		t.Fatal(err)
	}
	return folder, p.ID
}

// textDisk has text with repetitions near and far, runs, and what does not compress.
func textDisk() []byte {
	var b []byte
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 12000 {
		b = fmt.Appendf(b, "%d: the quick brown fox %x jumps over line %d\n", i, rng.Uint32(), i/3)
	}
	b = append(b, bytes.Repeat([]byte("ab"), 40000)...)
	for range 3000 {
		b = append(b, byte(rng.Uint32()))
	}
	return append(b, b[:200000]...)
}

func runExample(t *testing.T, secret string, args ...string) {
	t.Helper()
	if out, err := example(t, secret, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// example is the reader's command, under Debian's own Python, for which its
// packages are installed.
func example(t *testing.T, secret string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", append([]string{"-B", exampleReader}, args...)...)
	cmd.Env = append(os.Environ(), "LULL_PASSPHRASE="+secret)
	return cmd
}
