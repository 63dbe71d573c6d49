package space_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
)

func TestParseAmount(t *testing.T) {
	for text, want := range map[string]int64{"20GiB": 20 << 30, "1 MB": 1e6, "512KiB": 512 << 10, "5%": 50, "100%": 1000} {
		a, err := space.ParseAmount(text)
		if err != nil || a.Of(1000) != want || a.IsZero() {
			t.Errorf("%s of 1000 is %d, %v", text, a.Of(1000), err)
		}
	}
	for _, text := range []string{"", "5", "0GiB", "0%", "101%", "-1%", "-5GiB", "%", "GiB", "5x", "9999999EiB", "1e3%"} {
		if a, err := space.ParseAmount(text); err == nil {
			t.Errorf("%q is %v", text, a)
		}
	}
	if got := (space.Amount{Percent: 50}).Of(1<<62 + 2); got != 1<<61+1 {
		t.Errorf("half of a large number is %d", got)
	}
}

func TestLimits(t *testing.T) {
	amount := func(s string) space.Amount {
		a, err := space.ParseAmount(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, c := range []struct {
		free, delta [2]string
		ok          bool
	}{
		{[2]string{"10%", "5%"}, [2]string{"5%", "10%"}, true},
		{[2]string{"5%", "10%"}, [2]string{"5%", "10%"}, false},
		{[2]string{"10%", "5%"}, [2]string{"10GiB", "5GiB"}, false},
		{[2]string{"1%", "500GiB"}, [2]string{"90%", "5GiB"}, true}, // nobody knows of what
	} {
		l := space.Limits{
			Free:  space.Pair{Soft: amount(c.free[0]), Hard: amount(c.free[1])},
			Delta: space.Pair{Soft: amount(c.delta[0]), Hard: amount(c.delta[1])},
		}
		if err := l.Check(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if err := (space.Limits{}).Check(); err != nil {
		t.Error(err)
	}
}

// demand is one of a file system of so many bytes free, with lines at 200 and 100.
func demand(free, expected, taken, merge int64) []space.Demand {
	return []space.Demand{{
		Room:  space.Room{Dir: "/srv", Device: 1, Free: free, Soft: 200, Hard: 100},
		Share: space.Share{Expected: expected, Taken: taken, Merge: merge},
	}}
}

// Runs on one file system are let in as long as all that they may take fits; who comes
// later waits for them, and is refused where nobody is left to wait for.
func TestLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l space.Ledger
		begin := func(run string, d []space.Demand) error {
			_, err := l.Begin(t.Context(), run, func() ([]space.Demand, error) { return d, nil }, func(string) {})
			return err
		}
		if err := begin("a", demand(1000, 500, 0, 0)); err != nil {
			t.Fatal(err)
		}
		if err := begin("b", demand(1000, 300, 0, 0)); err != nil {
			t.Fatal(err)
		}
		told := 0
		done := make(chan error)
		go func() {
			waited, err := l.Begin(t.Context(), "c", func() ([]space.Demand, error) { return demand(1000, 400, 0, 0), nil }, func(string) { told++ })
			if !waited {
				t.Error("c did not wait")
			}
			done <- err
		}()
		synctest.Wait()
		l.Merged("a")
		if err := <-done; err != nil || told != 1 {
			t.Errorf("c after a: %v, told %d times", err, told)
		}
		l.Merged("b")
		l.Merged("c")
		if err := begin("d", demand(1000, 901, 0, 0)); !errors.Is(err, snapshot.ErrNoSpace) || !strings.Contains(err.Error(), "1 B are missing") {
			t.Errorf("what fits nowhere: %v", err)
		}
		if err := begin("d", demand(199, 0, 0, 0)); !errors.Is(err, snapshot.ErrNoSpace) {
			t.Errorf("below the soft line: %v", err)
		}

		// A delta that could not be merged counts with what merging it takes, and
		// nobody waits for it.
		if err := begin("e", demand(1000, 500, 0, 0)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Look("e", demand(1000, 0, 300, 250)[0]); err != nil {
			t.Error(err)
		}
		l.End("e")
		if err := begin("f", demand(449, 0, 0, 0)); !errors.Is(err, snapshot.ErrNoSpace) {
			t.Errorf("beside what e may take: %v", err)
		}
		if due := l.Due("f", 1); due != 250 || len(l.Runs()) != 1 {
			t.Errorf("of others %d, %v", due, l.Runs())
		}
		over, cancel := context.WithCancel(t.Context())
		if err := begin("g", demand(1000, 600, 0, 0)); err != nil {
			t.Fatal(err)
		}
		cancel()
		_, err := l.Begin(over, "h", func() ([]space.Demand, error) { return demand(1000, 600, 0, 0), nil }, func(string) {})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a wait that was ended: %v", err)
		}
	})
}

// The run with the largest delta ends first; the others have half of what was to stay
// free for the time that its merge takes. What merging all of them takes stays free.
func TestLook(t *testing.T) {
	var l space.Ledger
	look := func(run string, free, taken, merge int64) error {
		_, _, err := l.Look(run, demand(free, 0, taken, merge)[0])
		return err
	}
	for _, run := range []string{"small", "large"} {
		if _, err := l.Begin(t.Context(), run, func() ([]space.Demand, error) { return demand(1000, 0, 0, 0), nil }, func(string) {}); err != nil {
			t.Fatal(err)
		}
		if err := look(run, 1000, int64(10*len(run)), 10); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(look("large", 120, 60, 10), look("small", 120, 50, 10)); err != nil {
		t.Errorf("with all that is to stay free: %v", err)
	}
	if err := look("large", 119, 60, 10); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Errorf("the larger: %v", err)
	}
	if err := look("small", 119, 50, 10); err != nil {
		t.Errorf("the smaller: %v", err)
	}
	if err := look("small", 69, 50, 10); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Errorf("the smaller, with half of it gone: %v", err)
	}
	left, tight, err := l.Look("large", demand(1000, 0, 60, 10)[0])
	if left != 780 || tight || err != nil {
		t.Errorf("left %d, tight %v, %v", left, tight, err)
	}
	left, tight, err = l.Look("large", demand(150, 0, 60, 10)[0])
	if left != 30 || !tight || err != nil {
		t.Errorf("left %d, tight %v, %v", left, tight, err)
	}
}

// A run that has ended makes no room by ending: beside one that was not merged, however large,
// all that is to stay free stays free.
func TestLookBesideWhatHasEnded(t *testing.T) {
	var l space.Ledger
	for run, taken := range map[string]int64{"ended": 500, "running": 50} {
		if _, err := l.Begin(t.Context(), run, func() ([]space.Demand, error) { return demand(1000, 0, 0, 0), nil }, func(string) {}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Look(run, demand(1000, 0, taken, 10)[0]); err != nil {
			t.Fatal(err)
		}
	}
	look := func(free int64) error {
		_, _, err := l.Look("running", demand(free, 0, 50, 10)[0])
		return err
	}
	if err := look(119); err != nil {
		t.Errorf("beside a larger one that runs: %v", err)
	}
	l.End("ended")
	if err := look(120); err != nil {
		t.Errorf("with all that is to stay free: %v", err)
	}
	if err := look(119); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Errorf("beside one that has ended: %v", err)
	}
}

func TestCheckFolder(t *testing.T) {
	base := t.TempDir()
	make := func(name string, mode os.FileMode) string {
		dir := filepath.Join(base, name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	good := make("good", 0o711)
	if err := space.CheckFolder(good); err != nil {
		t.Errorf("a good folder: %v", err)
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := space.CheckFolder(link); err != nil {
		t.Errorf("a link to it: %v", err)
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := make("other", 0o755)
	if err := os.Chown(other, 1234, 1234); err != nil {
		t.Fatalf("chown (this test needs to be root): %v", err)
	}
	open := make("open", 0o777)
	memory := make("memory", 0o755)
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount a tmpfs (this test needs to be root): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(memory, unix.MNT_DETACH) })
	if err := os.Chmod(memory, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir, word := range map[string]string{
		filepath.Join(base, "missing"):      "no such file",
		file:                                "no folder",
		other:                               "another user",
		make("other/below", 0o755):          "another user",
		open:                                "others may write",
		make("open/below", 0o755):           "others may write",
		make("sticky", 0o777|os.ModeSticky): "others may write",
		memory:                              "in memory",
	} {
		err := space.CheckFolder(dir)
		if err == nil || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), "folder for deltas") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// What a run comes to need at once is set aside if it is there, beside what others may take.
func TestClaim(t *testing.T) {
	var l space.Ledger
	if _, err := l.Begin(t.Context(), "a", func() ([]space.Demand, error) { return demand(1000, 300, 0, 0), nil }, func(string) {}); err != nil {
		t.Fatal(err)
	}
	room := demand(1000, 0, 0, 0)[0].Room
	if giveBack, need := l.Claim("b", room, 501); giveBack != nil || need != 1001 {
		t.Errorf("more than there is: %d are needed", need)
	}
	giveBack, _ := l.Claim("b", room, 500)
	if giveBack == nil {
		t.Fatal("refused although it fits")
	}
	if due := l.Due("a", 1); due != 500 {
		t.Errorf("set aside: %d", due)
	}
	giveBack()
	if due := l.Due("a", 1); due != 0 {
		t.Errorf("given back, and still set aside: %d", due)
	}

	// What was reserved for all of the run counts, and is not given back.
	if giveBack, _ = l.Claim("a", room, 200); giveBack == nil || l.Due("b", 1) != 300 {
		t.Errorf("of 300 reserved: %d", l.Due("b", 1))
	}
	giveBack()
	if due := l.Due("b", 1); due != 300 {
		t.Errorf("left of what was reserved: %d", due)
	}
	giveBack, _ = l.Claim("a", room, 400)
	l.Merged("a")
	giveBack()
	if due := l.Due("b", 1); due != 0 || len(l.Runs()) != 1 {
		t.Errorf("of one that has ended: %d, %v", due, l.Runs())
	}
}
