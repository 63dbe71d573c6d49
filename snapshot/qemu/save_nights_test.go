package qemu

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// noise is how much of the guest's memory holds something: more than QEMU writes before it
// first looks whether it is time to end, after 50 ms.
const noise = 96 << 20

// What the guest has not changed between two nights is at the same places of its states,
// however and by whatever QEMU they were written.
func TestNightsShare(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "noise")
	b := make([]byte, noise)
	rand.NewChaCha8([32]byte{1}).Read(b)
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, way := range ways() {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			r := savableBy(t, savedVM(), way, "-m", "192", "-device", "loader,file="+file+",addr=0x1000000,force-raw=on")
			first := r.night()
			again, err := r.host.Plan(r.ctx, "web", "again")
			if err == nil {
				err = r.host.Prepare(r.ctx, again)
			}
			if err != nil {
				t.Fatal(err)
			}
			r.plan = again
			second := r.night()
			if changed := differing(t, first, second); changed > 2<<20 {
				t.Errorf("%d bytes of the second state are not where the first has them", changed)
			}
		})
	}
}

// night saves the state and merges. The file that held it can be read on.
func (r *run) night() *os.File {
	r.t.Helper()
	if _, err := r.host.TakeSaved(r.ctx, r.plan, untold); err != nil {
		r.t.Fatal(err)
	}
	f, err := os.Open(r.plan.Saved.Path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { f.Close() })
	r.unsaved()
	return f
}

// differing is how many bytes two states differ in, by pages. The repository compares only
// states of one length.
func differing(t *testing.T, first, second *os.File) (n int64) {
	t.Helper()
	a, b := make([]byte, 4096), make([]byte, 4096)
	for {
		read, err := io.ReadFull(first, a)
		other, otherErr := io.ReadFull(second, b)
		if read != other || !errors.Is(err, otherErr) {
			t.Fatalf("the states have not one length: %v, %v", err, otherErr)
		}
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			n += int64(len(a))
		}
	}
}
