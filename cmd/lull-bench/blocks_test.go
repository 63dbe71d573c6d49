package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Three images through every scheme: what A' has of A costs nothing again, and no
// scheme stores less than the content that cannot be compressed.
func TestMeasureRuns(t *testing.T) {
	dir := t.TempDir()
	changed := window(1)
	changed[200*kib]++
	for name, data := range map[string][]byte{"a.raw": window(1), "b.raw": window(2), "a2.raw": changed} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	images, err := findImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	var runs []*run
	for _, s := range schemes() {
		r, err := newRun(s)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
	}
	if err := measureRuns(t.Context(), runs, images); err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		a, b, next := r.result.after[0], r.result.after[1], r.result.after[2]
		if a < 900*kib || b < 900*kib || next > 300*kib || next <= 0 {
			t.Errorf("%s: A %d, B %d, A' %d bytes", r.scheme.name, a, b, next)
		}
		if r.result.total() != a+b+next {
			t.Errorf("%s: %d in all, %d by image", r.scheme.name, r.result.total(), a+b+next)
		}
	}
}

func TestBlocksCommandPrintsATable(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.raw", "b.raw", "a2.raw"} {
		if err := os.WriteFile(filepath.Join(dir, name), window(3), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := blocksCommand(t.Context(), []string{"-images", dir, "-only", "own$"}, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "| lull's own | ") || strings.Contains(out.String(), "fixed") {
		t.Errorf("printed\n%s", out.String())
	}
	if err := blocksCommand(t.Context(), []string{"-images", t.TempDir()}, &out); err == nil {
		t.Error("measured without images")
	}
}
