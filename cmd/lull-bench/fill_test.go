package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A day rewrites its share of the database's pages, in place, and the same day
// always does the same.
func TestFillADay(t *testing.T) {
	var before, after [2][]byte
	for i := range 2 {
		root := t.TempDir()
		table := filepath.Join(root, "srv/db/table")
		for day, into := range []*[]byte{&before[i], &after[i]} {
			args := []string{"-root", root, "-database", "4194304", "-day", string(rune('0' + day))}
			if err := fillCommand(t.Context(), args, io.Discard); err != nil {
				t.Fatal(err)
			}
			*into = read(t, table)
		}
	}
	if !bytes.Equal(before[0], before[1]) || !bytes.Equal(after[0], after[1]) {
		t.Error("two runs made different tables")
	}
	changed := 0
	for at := 0; at < len(before[0]); at += dbPage {
		if !bytes.Equal(before[0][at:at+dbPage], after[0][at:at+dbPage]) {
			changed++
		}
	}
	pages := float64(len(before[0]) / dbPage)
	if want := int(pages * rewrittenPages); changed != want {
		t.Errorf("%d of %.0f pages changed, want %d", changed, pages, want)
	}
}

func TestFillNeedsARoot(t *testing.T) {
	if err := fillCommand(t.Context(), nil, io.Discard); err == nil {
		t.Error("filled nowhere")
	}
}
