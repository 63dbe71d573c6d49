package index

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// childVar makes the test binary a second agent: see TestMain.
const childVar = "LULL_INDEX_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childVar); job != "" {
		if err := child(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child adds index objects to a folder and says so, one a line: "who objects
// blocks folder".
func child(job string) error {
	var who byte
	var objects, blocks uint64
	var dir string
	if _, err := fmt.Sscan(job, &who, &objects, &blocks, &dir); err != nil {
		return err
	}
	x, err := Open(dir)
	if err != nil {
		return err
	}
	defer x.Close()
	for n := range objects {
		at := childFrom(who) + n*blocks
		if err := x.Add(context.Background(), childSource(who, n), entries(at, at+blocks)); err != nil {
			return err
		}
		fmt.Println(n)
		for i := at; i < at+blocks; i += 7 {
			if loc, ok, err := x.Lookup(nameOf(i)); err != nil || !ok || loc != entryOf(i).Location {
				return fmt.Errorf("block %d: %v, %v", i, ok, err)
			}
		}
	}
	return nil
}

// childFrom is the first block of an agent's first object.
func childFrom(who byte) uint64 { return uint64(who) * 1_000_000 }

func childSource(who byte, n uint64) Source { return Source{1, who, byte(n), byte(n >> 8)} }

// agent is a child process.
type agent struct {
	t    *testing.T
	cmd  *exec.Cmd
	said *bufio.Scanner
}

func startAgent(t *testing.T, who byte, objects, blocks uint64, dir string) *agent {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %d %s", childVar, who, objects, blocks, dir))
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &agent{t: t, cmd: c, said: bufio.NewScanner(out)}
}

// heard is how many objects the agent added, until it ended.
func (a *agent) heard() (n uint64) {
	for a.said.Scan() {
		i, err := strconv.ParseUint(a.said.Text(), 10, 64)
		if err != nil || i != n {
			a.t.Fatalf("the agent said %q after %d objects", a.said.Text(), n)
		}
		n++
	}
	return n
}

// Two agents fill one folder at the same time. All is found by a third one, and
// either may merge what the other wrote.
func TestTwoProcessesShareTheFolder(t *testing.T) {
	const objects, blocks = 25, 400
	dir := t.TempDir()
	other := open(t, dir) // keeps old files mapped
	one := startAgent(t, 1, objects, blocks, dir)
	two := startAgent(t, 2, objects, blocks, dir)
	for _, a := range []*agent{one, two} {
		if n := a.heard(); n != objects {
			t.Errorf("an agent ended after %d objects", n)
		}
		if err := a.cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	wantWhole(t, dir, map[byte]uint64{1: objects, 2: objects}, objects, blocks)
}

// An agent that is killed in the middle of a merge, again and again, loses nothing
// that it had added, and leaves nothing behind.
func TestKilledInTheMiddleOfAMerge(t *testing.T) {
	const objects, blocks = 40, 6000
	dir := t.TempDir()
	done := map[byte]uint64{}
	torn := 0
	for round := range byte(12) {
		a := startAgent(t, round, objects, blocks, dir)
		stop := make(chan struct{})
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			killWhenMerging(a, dir, 320_000+int64(round)*200_000, stop)
		}()
		done[round] = a.heard()
		close(stop)
		<-killed
		_ = a.cmd.Wait() // killed, as a rule
		if len(tempFiles(t, dir)) > 0 {
			torn++
		}
	}
	if torn < 3 {
		t.Fatalf("only %d of 12 were killed while they wrote", torn)
	}
	wantWhole(t, dir, done, objects, blocks)
}

// killWhenMerging kills the agent while it writes a run of some size, larger than
// one object.
func killWhenMerging(a *agent, dir string, size int64, stop <-chan struct{}) {
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		temps, _ := filepath.Glob(filepath.Join(dir, "*"+tempSuffix))
		for _, path := range temps {
			if info, err := os.Stat(path); err == nil && info.Size() > size {
				_ = a.cmd.Process.Kill()
				return
			}
		}
	}
}

func tempFiles(t *testing.T, dir string) []string {
	t.Helper()
	temps, err := filepath.Glob(filepath.Join(dir, "*"+tempSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return temps
}

// wantWhole opens the folder, alone: what was added is held, but for what the
// index says is missing, and of that nothing at all. done says how many objects of
// whom were surely added, of so many.
func wantWhole(t *testing.T, dir string, done map[byte]uint64, objects, blocks uint64) {
	t.Helper()
	x := open(t, dir)
	if temps := tempFiles(t, dir); temps != nil {
		t.Errorf("left behind: %s", strings.Join(temps, ", "))
	}
	for who, surely := range done {
		for n := range objects {
			lost, err := x.Missing([]Source{childSource(who, n)})
			if err != nil {
				t.Fatal(err)
			}
			if n < surely && lost != nil {
				t.Fatalf("object %d of agent %d is missing", n, who)
			}
			at := childFrom(who) + n*blocks
			if lost == nil {
				want(t, x, at, at+min(blocks, 50), true)
				want(t, x, at+blocks-min(blocks, 50), at+blocks, true)
			}
		}
	}
	if n := len(runFiles(t, dir)); n != len(x.runs) {
		t.Errorf("%d files, %d runs", n, len(x.runs))
	}
}
