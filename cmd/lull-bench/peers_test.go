package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Two rounds with two programs, one of which always fails: the other is measured
// all the same, and nothing is left behind.
func TestMeasureAll(t *testing.T) {
	dir, scratch := t.TempDir(), t.TempDir()
	for i, name := range []string{"a.raw", "b.raw", "a2.raw"} {
		if err := os.WriteFile(filepath.Join(dir, name), window(byte(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	images, err := findImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := references()
	copying := all[len(all)-1]
	broken := &program{name: "broken", timed: true, backup: func(place, image) step { return step{args: []string{"false"}} }}
	b := &bench{images: images, scratch: scratch, log: io.Discard}
	b.measureAll(t.Context(), []*program{broken, copying}, 2)
	failed, good := b.results[0], b.results[1]
	if len(failed.usage) != 0 || failed.size(3) != 0 {
		t.Errorf("a program that fails was measured: %+v", failed)
	}
	if len(good.usage[firstA]) != 2 || len(good.usage[restoring]) != 2 || good.size(1) == 0 || good.size(3) <= good.size(2) {
		t.Errorf("measured %+v, sizes %v", good.usage, good.sizes)
	}
	if _, err := os.Stat(filepath.Join(scratch, "restored")); !os.IsNotExist(err) {
		t.Errorf("what was restored is still there: %v", err)
	}
}

func TestProgramsThatAreMissingAreSaid(t *testing.T) {
	said := 0
	here := present([]*program{{name: "x", needs: "no-such-program-anywhere"}, {name: "sh", needs: "sh"}}, func(string, ...any) { said++ })
	if len(here) != 1 || here[0].name != "sh" || said != 1 {
		t.Errorf("%v are there, %d said", here, said)
	}
}
