package journal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var errCrash = errors.New("crash")

// crashing is a disk whose machine stops after a number of steps. What no fsync
// had confirmed by then is lost when lose is set, as the file system may have it.
type crashing struct {
	osFiles
	steps int
	lose  bool
	undo  []func() error // of changes in folders that were not synced
	log   []string
}

// step says whether the machine still runs; if not, it loses what was not synced.
func (c *crashing) step(what, path string) error {
	c.log = append(c.log, what+" "+filepath.Base(path))
	if c.steps--; c.steps >= 0 {
		return nil
	}
	for c.lose && len(c.undo) > 0 {
		last := len(c.undo) - 1
		if err := c.undo[last](); err != nil {
			return err
		}
		c.undo = c.undo[:last]
	}
	return errCrash
}

func (c *crashing) write(path string, data []byte) error {
	for _, s := range []struct {
		what string
		part []byte
	}{{"create", nil}, {"write half of", data[:len(data)/2]}, {"write", data[:len(data)-1]}} {
		if err := c.step(s.what, path); err != nil {
			return err
		}
		if err := os.WriteFile(path, s.part, 0o600); err != nil {
			return err
		}
	}
	if err := c.step("fsync", path); err != nil {
		return err
	}
	return c.osFiles.write(path, data)
}

func (c *crashing) rename(from, to string) error {
	if err := c.step("rename", to); err != nil {
		return err
	}
	c.undo = append(c.undo, restore(to))
	return c.osFiles.rename(from, to)
}

func (c *crashing) remove(path string) error {
	if err := c.step("remove", path); err != nil {
		return err
	}
	c.undo = append(c.undo, restore(path))
	return c.osFiles.remove(path)
}

func (c *crashing) syncDir(path string) error {
	if err := c.step("fsync folder", path); err != nil {
		return err
	}
	c.undo = nil
	return c.osFiles.syncDir(path)
}

// restore remembers what a path holds now.
func restore(path string) func() error {
	data, err := os.ReadFile(path)
	if err != nil {
		return func() error { return os.RemoveAll(path) }
	}
	return func() error { return os.WriteFile(path, data, 0o600) }
}

func entry(run string) Entry {
	return Entry{Run: run, VM: "lab/web", Phase: "planned", Started: time.Date(2026, 11, 21, 1, 30, 0, 0, time.UTC)}
}

// crashAt runs change on a journal that holds the entry before (none: no entry)
// and stops the machine after n steps. It returns what is found afterwards, and
// whether change had come to its end.
func crashAt(t *testing.T, before string, n int, lose bool, change func(*Journal) error) (found string, done bool) {
	t.Helper()
	dir := t.TempDir()
	whole, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if before != "" {
		if err := whole.Write(entry(before)); err != nil {
			t.Fatal(err)
		}
	}
	err = change(&Journal{dir: dir, files: &crashing{steps: n, lose: lose}})
	if err != nil && !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	again, openErr := Open(dir)
	if openErr != nil {
		t.Fatal(openErr)
	}
	e, there, readErr := again.Read("lab/web")
	if readErr != nil {
		t.Fatalf("after %d steps: %v", n, readErr)
	}
	list, listErr := again.Pending()
	if listErr != nil || len(list) == 1 != there {
		t.Fatalf("after %d steps: list of %d, %v", n, len(list), listErr)
	}
	if err := again.Write(entry("next")); err != nil { // what is left over is in nobody's way
		t.Fatalf("after %d steps: %v", n, err)
	}
	return e.Run, err == nil
}

func TestCrashInWrite(t *testing.T) {
	for _, before := range []string{"", "old"} {
		for _, lose := range []bool{false, true} {
			for n := 0; ; n++ {
				found, done := crashAt(t, before, n, lose, func(j *Journal) error { return j.Write(entry("new")) })
				if found != "new" && (done || found != before) {
					t.Errorf("before %q, crash after %d steps, lose %v, done %v: found %q", before, n, lose, done, found)
				}
				if done {
					break
				}
			}
		}
	}
}

func TestCrashInRemove(t *testing.T) {
	for _, lose := range []bool{false, true} {
		for n := 0; ; n++ {
			found, done := crashAt(t, "old", n, lose, func(j *Journal) error { return j.Remove("lab/web") })
			if found != "" && (done || found != "old") {
				t.Errorf("crash after %d steps, lose %v, done %v: found %q", n, lose, done, found)
			}
			if done {
				break
			}
		}
	}
}

// TestOrderOfWrites: a reviewer reads here what is durable before what.
func TestOrderOfWrites(t *testing.T) {
	c := &crashing{steps: 1000}
	j, err := open(filepath.Join(t.TempDir(), "state"), c)
	if err != nil {
		t.Fatal(err)
	}
	c.log = nil
	if err := j.Write(entry("one")); err != nil {
		t.Fatal(err)
	}
	if err := j.Record("lab/web", Result{Point: "p"}); err != nil {
		t.Fatal(err)
	}
	if err := j.Remove("lab/web"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"create lab%2Fweb.json.tmp", "write half of lab%2Fweb.json.tmp", "write lab%2Fweb.json.tmp",
		"fsync lab%2Fweb.json.tmp", "rename lab%2Fweb.json", "fsync folder runs",
		"create lab%2Fweb.json.tmp", "write half of lab%2Fweb.json.tmp", "write lab%2Fweb.json.tmp",
		"fsync lab%2Fweb.json.tmp", "rename lab%2Fweb.json", "fsync folder results",
		"remove lab%2Fweb.json", "fsync folder runs",
	}
	if diff := cmp.Diff(want, c.log); diff != "" {
		t.Error(diff)
	}
}
