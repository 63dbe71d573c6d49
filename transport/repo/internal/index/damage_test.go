package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"
)

func TestDamagedFileIsRemovedAndMissing(t *testing.T) {
	good := runBytes(t, 300)
	damages := map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"short":     func(b []byte) []byte { return b[:len(b)-1] },
		"long":      func(b []byte) []byte { return append(b, 0) },
		"header":    func(b []byte) []byte { b[20] ^= 1; return b },
		"version":   func(b []byte) []byte { b[8] = 9; return seal(b) },
		"bits":      func(b []byte) []byte { b[12] = 200; return seal(b) },
		"count":     func(b []byte) []byte { b[23] = 255; return seal(b) },
		"entry":     func(b []byte) []byte { b[headerLen+100] ^= 0x40; return b },
		"last byte": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
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

func TestLeftoversAreRemovedByWhoIsAlone(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"+runSuffix), runBytes(t, 50))
	writeFile(t, filepath.Join(dir, "b"+runSuffix), runBytes(t, 50)) // same source
	first := open(t, dir)
	if n := len(runFiles(t, dir)); n != 1 {
		t.Fatalf("%d runs, want the double one removed", n)
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
}

// FuzzRun opens any bytes as a run, with good checksums if need be, and does all
// that is done with runs.
func FuzzRun(f *testing.F) {
	good := runBytes(f, 40)
	f.Add(good, true)
	f.Add(good[:headerLen], true)
	starts := bytes.Clone(good)
	starts[headerLen+40*entryLen] = 77
	f.Add(starts, true)
	pack := bytes.Clone(good)
	pack[headerLen+32] = 200
	f.Add(pack, true)
	f.Add([]byte(magic), false)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			b = seal(b)
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
			if err := (runs{r}).lookup(&name, new(hit)); err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
		}
		out, err := runs{r}.merge(t.Context(), dir, false)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if out.len() != r.len() {
			t.Fatalf("%d entries of %d after a merge", out.len(), r.len())
		}
		if err := out.close(); err != nil {
			t.Fatal(err)
		}
	})
}

// seal sets the checksums of b right, when it is long enough to have them.
func seal(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < headerLen {
		return b
	}
	body := blake3.Sum256(b[headerLen:])
	copy(b[32:], body[:])
	head := blake3.Sum256(b[:64])
	copy(b[64:], head[:])
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
	if got := binary.LittleEndian.Uint64(b[16:]); got != n {
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
