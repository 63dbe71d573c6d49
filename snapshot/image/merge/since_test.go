package merge

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/image/imagetest"
)

// TestRebooted: a host that crashed may start the VM of a VHD before anyone looks, so the
// administrator is asked. A VHDX tells by itself.
func TestRebooted(t *testing.T) {
	for name, want := range map[string]error{"vhd, dynamic": snapshot.ErrInexact, "vhdx, dynamic": nil} {
		f, dir := families(t)[name], t.TempDir()
		child, parent := f.live(t, dir), filepath.Join(dir, "parent")
		job := Job{Child: child, Format: f.format, disk: &crashing{steps: 12}, batch: 4096, boot: "first"}
		if _, err := Run(t.Context(), job); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(parent)
		job.disk, job.boot = &crashing{steps: 1 << 30}, "second"
		if want != nil {
			if _, err := Run(t.Context(), job); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
			if after, _ := os.ReadFile(parent); !bytes.Equal(before, after) {
				t.Errorf("%s: the parent was written to", name)
			}
			job.Unchanged, job.disk = true, &crashing{steps: 3}
			if _, err := Run(t.Context(), job); !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			job.disk = &crashing{steps: 1 << 30}
		}
		if _, err := Run(t.Context(), job); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		f.merged(t, dir, false)
	}
}

// TestPutBackSinceMerged: what was merged is removed only while the parent has it, though
// an earlier run noted that it does.
func TestPutBackSinceMerged(t *testing.T) {
	for name, f := range families(t) {
		dir := t.TempDir()
		child := f.live(t, dir)
		if _, err := Run(t.Context(), Job{Child: child, Format: f.format, disk: keepsJournal{}}); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(filepath.Join(dir, "parent"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.again(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), Job{Child: child, Format: f.format, Discard: true}); !errors.Is(err, snapshot.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(child); err != nil || !bytes.Equal(b, f.child) {
			t.Errorf("%s: the child is gone: %v", name, err)
		}
		if err := writeSparse(filepath.Join(dir, "parent"), whole); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), Job{Child: child, Format: f.format, Discard: true}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		f.merged(t, dir, true)
	}
}

// TestLinkedParent: others that were made on a parent are beside the file that a link leads to,
// and so is the journal.
func TestLinkedParent(t *testing.T) {
	f, dir, real := families(t)["vhdx, dynamic"], t.TempDir(), t.TempDir()
	child, link, sibling := f.live(t, dir), filepath.Join(dir, "parent"), filepath.Join(real, "x.avhdx")
	if err := errors.Join(os.Remove(link), f.again(real), os.Symlink(filepath.Join(real, "parent"), link)); err != nil {
		t.Fatal(err)
	}
	b := imagetest.VHDX{Size: size, Block: 1 << 20, ID: baseID, Parent: &imagetest.Parent{ID: parentID, Path: `.\parent`}}.Bytes(t)
	if err := os.WriteFile(sibling, b, 0o600); err != nil {
		t.Fatal(err)
	}
	job := Job{Child: child, Format: f.format, Parents: []string{link}, Discard: true}
	if _, err := Run(t.Context(), job); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("with a sibling beside the file: %v", err)
	}
	if err := os.Remove(sibling); err != nil {
		t.Fatal(err)
	}
	job.disk = keepsJournal{}
	if _, err := Run(t.Context(), job); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	job.disk = nil
	if res, err := Run(t.Context(), job); err != nil || !res.Resumed || !res.Discarded {
		t.Errorf("after the child was removed: %+v, %v", res, err)
	}
	f.merged(t, real, true)
}

// keepsJournal is a disk whose machine stops before a journal is removed.
type keepsJournal struct{ osDisk }

func (k keepsJournal) remove(path string) error {
	if strings.HasSuffix(path, image.MergeEnding) {
		return errCrash
	}
	return k.osDisk.remove(path)
}
