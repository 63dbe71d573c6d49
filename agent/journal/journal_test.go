package journal_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
)

func open(t *testing.T) (*journal.Journal, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "deep", "state")
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return j, dir
}

func sample(vm string) journal.Entry {
	return journal.Entry{
		Run: "20261121T013000Z-1", VM: vm, Phase: "prepared", FreezeSent: true,
		Started: time.Date(2026, 11, 21, 1, 30, 0, 0, time.UTC),
		Plan: snapshot.Plan{Host: "qemu", VM: "web", Run: "20261121T013000Z-1", State: snapshot.StateRunning, Disks: []snapshot.DiskPlan{{
			Disk:  snapshot.Disk{Name: "vda", Path: "/srv/web.qcow2", Format: snapshot.FormatQcow2, Size: 1 << 30},
			Delta: "/srv/web.delta", Chain: []snapshot.Layer{{Path: "/srv/web.qcow2", Format: snapshot.FormatQcow2}},
		}}},
	}
}

func TestEntryLife(t *testing.T) {
	j, dir := open(t)
	if _, found, err := j.Read("lab/web"); found || err != nil {
		t.Fatalf("before any run: %v, %v", found, err)
	}
	want := sample("lab/web")
	if err := j.Write(want); err != nil {
		t.Fatal(err)
	}
	want.Phase = "taken"
	if err := j.Write(want); err != nil {
		t.Fatal(err)
	}
	other, err := journal.Open(dir) // as a new process would
	if err != nil {
		t.Fatal(err)
	}
	got, found, err := other.Read("lab/web")
	if diff := cmp.Diff(want, got); err != nil || !found || diff != "" {
		t.Errorf("%v, %v\n%s", found, err, diff)
	}
	for range 2 {
		if err := other.Remove("lab/web"); err != nil {
			t.Fatal(err)
		}
	}
	if _, found, err := j.Read("lab/web"); found || err != nil {
		t.Errorf("after Remove: %v, %v", found, err)
	}
}

func TestPendingSortsAndSkipsTemporaryFiles(t *testing.T) {
	j, dir := open(t)
	for _, vm := range []string{"lab/web", "cold/old", "bare"} {
		if err := j.Write(sample(vm)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "runs", "lab%2Fdb.json.tmp"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := j.Pending()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.VM)
	}
	if diff := cmp.Diff([]string{"bare", "cold/old", "lab/web"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestNamesStayInTheFolder: what a VM is called never reaches another file.
func TestNamesStayInTheFolder(t *testing.T) {
	j, dir := open(t)
	names := []string{"../../etc/passwd", "..", ".", ".hidden", "a/b", "a%2Fb", "a b", "Ä\n\x00", "a", "A", "a.json", "a.json.tmp", "-rf"}
	for i, vm := range names {
		e := sample(vm)
		e.Phase = strconv.Itoa(i)
		if err := j.Write(e); err != nil {
			t.Fatalf("%q: %v", vm, err)
		}
		lock, err := j.Lock(vm)
		if err != nil {
			t.Fatalf("%q: %v", vm, err)
		}
		if err := lock.Unlock(); err != nil {
			t.Fatal(err)
		}
	}
	for i, vm := range names {
		if e, _, err := j.Read(vm); err != nil || e.VM != vm || e.Phase != strconv.Itoa(i) {
			t.Errorf("%q reads as %q, phase %s: %v", vm, e.VM, e.Phase, err)
		}
	}
	found, err := os.ReadDir(filepath.Join(dir, "runs"))
	if err != nil || len(found) != len(names) {
		t.Errorf("%d files for %d names: %v", len(found), len(names), err)
	}
	for _, vm := range []string{"", strings.Repeat("x", 300), strings.Repeat("/", 100)} {
		if err := j.Write(sample(vm)); err == nil {
			t.Errorf("a name of %d bytes was taken", len(vm))
		}
		if _, err := j.Lock(vm); err == nil {
			t.Errorf("a name of %d bytes was locked", len(vm))
		}
	}
}

// TestDamage: each file that is not what Write left is an error that names it.
func TestDamage(t *testing.T) {
	j, dir := open(t)
	path := filepath.Join(dir, "runs", "lab%2Fweb.json")
	if err := j.Write(sample("lab/web")); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty":          {},
		"torn":           whole[:len(whole)/2],
		"head only":      whole[:bytes.IndexByte(whole, '\n')+1],
		"zeros":          make([]byte, len(whole)),
		"flipped":        bytes.Replace(whole, []byte("web.delta"), []byte("wet.delta"), 1),
		"later version":  bytes.Replace(whole, []byte("lull-run 1 "), []byte("lull-run 2 "), 1),
		"other kind":     bytes.Replace(whole, []byte("lull-run"), []byte("lull-result"), 1),
		"far too long":   append(bytes.Clone(whole), make([]byte, 5<<20)...),
		"second content": append(bytes.Clone(whole), "{}"...),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, found, err := j.Read("lab/web")
		var hint interface{ Hint() string }
		if found || !errors.Is(err, journal.ErrDamaged) || !strings.Contains(err.Error(), path) || !errors.As(err, &hint) {
			t.Errorf("%s: got %v", name, err)
		}
		if list, err := j.Pending(); !errors.Is(err, journal.ErrDamaged) || len(list) != 0 {
			t.Errorf("%s: list of %d, %v", name, len(list), err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "runs", "lab%2Fdb.json"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := j.Read("lab/db"); !errors.Is(err, journal.ErrDamaged) {
		t.Errorf("the entry of another VM: %v", err)
	}
	if list, err := j.Pending(); err == nil || len(list) != 1 {
		t.Errorf("beside a damaged entry: list of %d, %v", len(list), err)
	}
}

func TestWriteIsBounded(t *testing.T) {
	j, _ := open(t)
	e := sample("lab/web")
	e.Plan.Hardware.CommandLine = []string{strings.Repeat("x", 5<<20)}
	if err := j.Write(e); err == nil {
		t.Error("an entry was written that would not be read")
	}
	if _, found, err := j.Read("lab/web"); found || err != nil {
		t.Errorf("got %v, %v", found, err)
	}
}

func TestLastResult(t *testing.T) {
	j, dir := open(t)
	first := time.Date(2026, 11, 21, 1, 30, 0, 0, time.UTC)
	last := func() journal.Result {
		t.Helper()
		r, err := j.Last("lab/web")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	record := func(r, want journal.Result) {
		t.Helper()
		if err := j.Record("lab/web", r); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, last()); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff(journal.Result{}, last()); diff != "" {
		t.Error("before any run:", diff)
	}
	failed := journal.Result{Start: first, Error: "no space left"}
	record(failed, failed)
	good := journal.Result{Start: first.Add(time.Hour), Success: first.Add(61 * time.Minute), Point: "p1",
		Level: "crash", Warned: 2, Warnings: []string{"disk sdb is left out", "no TPM"}}
	record(good, good)
	record(journal.Result{Start: first.Add(2 * time.Hour), Error: "no guest"},
		journal.Result{Start: first.Add(2 * time.Hour), Success: good.Success, Error: "no guest",
			Point: good.Point, Level: good.Level, Warned: good.Warned, Warnings: good.Warnings})

	long := strings.Repeat("ä", 40000)
	if err := j.Record("lab/web", journal.Result{Error: long, Point: "p", Warned: 90, Warnings: slices.Repeat([]string{long}, 90)}); err != nil {
		t.Fatal(err)
	}
	if r := last(); len(r.Error) > 4096 || strings.Trim(r.Error, "ä") != "" {
		t.Errorf("a long error is stored as %d bytes", len(r.Error))
	}
	if r := last(); r.Warned != 90 || len(r.Warnings) != 8 || len(r.Warnings[7]) > 512 {
		t.Errorf("of %d warnings %d are stored", r.Warned, len(r.Warnings))
	}
	if err := os.WriteFile(filepath.Join(dir, "results", "lab%2Fweb.json"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Last("lab/web"); !errors.Is(err, journal.ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	record(good, good)
}

func TestLock(t *testing.T) {
	j, dir := open(t)
	lock, err := j.Lock("lab/web")
	if err != nil {
		t.Fatal(err)
	}
	other, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Lock("lab/web")
	var locked *journal.LockedError
	if !errors.Is(err, journal.ErrLocked) || !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.VM != "lab/web" {
		t.Errorf("got %v", err)
	}
	db, err := other.Lock("lab/db")
	if err != nil {
		t.Fatalf("another VM: %v", err)
	}
	for _, l := range []*journal.Lock{lock, db} {
		if err := l.Unlock(); err != nil {
			t.Fatal(err)
		}
	}
	again, err := other.Lock("lab/web")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Unlock(); err != nil {
		t.Fatal(err)
	}
}

const lockDir = "LULL_TEST_LOCK_DIR"

// TestLockHolder is the other process of TestLockOfAnotherProcess; by itself it
// does nothing.
func TestLockHolder(t *testing.T) {
	dir := os.Getenv(lockDir)
	if dir == "" {
		return
	}
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Lock("lab/web"); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("locked\n")
	os.Stdin.Read(make([]byte, 1)) // until killed
}

func TestLockOfAnotherProcess(t *testing.T) {
	j, dir := open(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockHolder$")
	cmd.Env = append(os.Environ(), lockDir+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len("locked\n"))
	_, readErr := out.Read(said)
	_, err = j.Lock("lab/web")
	var locked *journal.LockedError
	if readErr != nil || !errors.As(err, &locked) || locked.PID != cmd.Process.Pid {
		t.Errorf("other process said %q (%v); got %v, want its pid %d", said, readErr, err, cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the killed process ended well")
	}
	lock, err := j.Lock("lab/web")
	if err != nil {
		t.Fatalf("after kill -9: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("lull-run 1 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"))
	f.Add([]byte("lull-run 1 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n{}\n"))
	f.Add([]byte(""))
	dir := f.TempDir()
	j, err := journal.Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, "runs", "web.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := j.Read("web"); !errors.Is(err, journal.ErrDamaged) {
			t.Errorf("got %v", err)
		}
	})
}
