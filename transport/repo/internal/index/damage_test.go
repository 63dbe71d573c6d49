package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/transport/block"
)

func TestFileDamagedAtFirstSightIsRemovedAndMissing(t *testing.T) {
	good := runBytes(t, 300)
	damages := map[string]func([]byte) []byte{
		"empty":   func([]byte) []byte { return nil },
		"short":   func(b []byte) []byte { return b[:len(b)-1] },
		"page":    func(b []byte) []byte { return b[:len(b)-pageLen] },
		"long":    func(b []byte) []byte { return append(b, 0) },
		"header":  func(b []byte) []byte { b[40] ^= 1; return b },
		"version": func(b []byte) []byte { b[8] = 9; return reseal(b) },
		"count":   func(b []byte) []byte { b[31] = 255; return reseal(b) },
		"rows":    func(b []byte) []byte { b[39] = 255; return reseal(b) },
		"fences":  func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "a"+runSuffix), damage(bytes.Clone(good)))
			x := open(t, dir)
			if got := missing(t, x, Source{1}); !cmp.Equal(got, []Source{{1}}) {
				t.Fatalf("missing %v", got)
			}
			if left := runFiles(t, dir); left != nil {
				t.Fatalf("left: %v", left)
			}
			add(t, x, Source{1}, 0, 300)
			want(t, open(t, dir), 0, 300, true)
		})
	}
}

// A bit that flips in the cache never makes a wrong place of a right one, nor an
// absent block a known one, in whatever page it is. What cannot be believed is
// dropped, and complete again when the index object was added again.
func TestFlippedBitNeverAnswers(t *testing.T) {
	const blocks = 2000
	dir := t.TempDir()
	path := filepath.Join(dir, "a"+runSuffix)
	good := runBytes(t, blocks)
	r := rand.New(rand.NewPCG(1, 2))
	for flip := range 400 {
		bad := bytes.Clone(good)
		at := r.IntN(len(bad))
		if flip < len(bad)/pageLen { // each page at least once
			at = flip*pageLen + r.IntN(pageLen)
		}
		bad[at] ^= 1 << r.IntN(8)
		writeFile(t, path, bad)
		askAll(t, dir, at, blocks)
	}
}

// askAll opens dir, where Source{1} with some blocks is damaged at a byte, and asks
// for each of them and as many others.
func askAll(t *testing.T, dir string, at int, blocks uint64) {
	t.Helper()
	x, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	x.cache.sync = noSync
	s := x.Session()
	dropped := x.Len() == 0
	for i := range 2 * blocks {
		e := entryOf(i)
		for _, l := range []lookuper{x, s} {
			loc, ok, err := l.Lookup(e.Name)
			if err != nil && !errors.Is(err, ErrDamaged) || ok && (err != nil || loc != e.Location) {
				t.Fatalf("byte %d: block %d: %+v, %v, %v", at, i, loc, ok, err)
			}
			dropped = dropped || err != nil
			if l == x && i < blocks && !ok && !dropped {
				t.Fatalf("byte %d: block %d is lost", at, i)
			}
		}
	}
	wantKnown(t, s, blocks)
	missing, err := x.Missing([]Source{{1}})
	if err != nil || dropped != (missing != nil) {
		t.Fatalf("byte %d: missing %v, %v", at, missing, err)
	}
	if dropped {
		add(t, x, Source{1}, 0, blocks)
	}
	want(t, x, 0, blocks, true)
	if err := (x.runs).discard(); err != nil {
		t.Fatal(err)
	}
	x.runs = nil
}

// wantKnown asks for all at once: a damaged cache may have lost blocks, but
// never knows one that is not there.
func wantKnown(t *testing.T, s *Session, blocks uint64) {
	t.Helper()
	var names []block.Name
	for i := range 2 * blocks {
		names = append(names, nameOf(i))
	}
	known := make([]bool, len(names))
	err := s.Known(names, known)
	if err != nil && !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	for i := range known {
		if known[i] && uint64(i) >= blocks {
			t.Fatalf("block %d is known", i)
		}
	}
}

// A run that proves to be damaged only when it is merged is dropped, and what was
// to be added is kept.
func TestDamageMetByAMerge(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	for i := range uint64(3) {
		add(t, x, Source{byte(i)}, i*200, i*200+200)
	}
	bad := x.runs[0]
	f, err := os.OpenFile(bad.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{1, 2, 3, 4}, bad.from[secEntries]*pageLen+100)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	add(t, x, Source{3}, 600, 800)
	lost := missing(t, x, Source{0}, Source{1}, Source{2}, Source{3})
	if len(lost) != 1 || lost[0] == (Source{3}) {
		t.Fatalf("missing %v", lost)
	}
	from := uint64(lost[0][0]) * 200
	want(t, x, from, from+200, false)
	add(t, x, lost[0], from, from+200)
	want(t, x, 0, 800, true)
}

func TestLeftoversAreRemovedByWhoIsAlone(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"+runSuffix), runBytes(t, 50))
	writeFile(t, filepath.Join(dir, "b"+runSuffix), runBytes(t, 50)) // same source
	old := filepath.Join(dir, "c.run1")
	writeFile(t, old, nil)
	first := open(t, dir)
	if n := len(runFiles(t, dir)); n != 1 {
		t.Fatalf("%d runs, want the double one removed", n)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a run of another version: %v", err)
	}
	temp := filepath.Join(dir, "x"+tempSuffix)
	writeFile(t, temp, nil)
	open(t, dir)
	if _, err := os.Stat(temp); err != nil {
		t.Fatalf("another process's temporary file: %v", err)
	}
	want(t, first, 0, 50, true)
}

func TestFileCutShortUnderTheMapIsAnError(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	add(t, x, Source{1}, 0, 5000)
	if err := os.Truncate(runFiles(t, dir)[0], 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := x.Lookup(nameOf(7)); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	if got := missing(t, x, Source{1}); !cmp.Equal(got, []Source{{1}}) {
		t.Fatalf("missing %v", got)
	}
}

// FuzzRun opens any bytes as a run, with good checksums if need be, and does all
// that is done with runs.
func FuzzRun(f *testing.F) {
	good := runBytes(f, 40)
	f.Add(good, true)
	f.Add(good[:pageLen], true)
	for page := 1; page*pageLen < len(good); page++ {
		bad := bytes.Clone(good)
		bad[page*pageLen+1] = 77
		f.Add(bad, true)
	}
	f.Add([]byte(magic), false)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			b = reseal(b)
		}
		path := filepath.Join(dir, "fuzz"+runSuffix)
		writeFile(t, path, b)
		r, err := openRun(path)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		defer r.close()
		for i := range uint64(40) {
			name := nameOf(i)
			if err := (runs{r}).lookup(&name, &hit{filtered: i%2 == 0}); err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
		}
		gone := map[[32]byte]struct{}{}
		if err := guard(func() error { return runs{r}.unlisted([]Source{{1}}, gone) }); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		out, err := writeRun(t.Context(), &cache{dir: dir}, plan{inputs: runs{r}.inputs(), vanished: []Source{{2}}})
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTooBig) {
				t.Fatal(err)
			}
			return
		}
		if err := out.close(); err != nil {
			t.Fatal(err)
		}
	})
}

// reseal sets the checksums of b's whole pages right.
func reseal(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < pageLen {
		return b
	}
	nonce := binary.LittleEndian.Uint64(b[16:])
	h, err := parseHeader(seal(b[:pageLen], nonce, 0), int64(len(b)))
	for n := range int64(len(b) / pageLen) {
		if err != nil || n < h.first(secFilter) || n >= h.first(secEntries) {
			seal(b[n*pageLen:][:pageLen], nonce, n)
		}
	}
	return b
}

// runBytes is a good run of n entries from Source{1}.
func runBytes(t testing.TB, n uint64) []byte {
	t.Helper()
	dir := t.TempDir()
	x := open(t, dir)
	add(t, x, Source{1}, 0, n)
	b, err := os.ReadFile(runFiles(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := binary.LittleEndian.Uint64(b[24:]); got != n {
		t.Fatalf("%d entries in the file, want %d", got, n)
	}
	return b
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
