package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lull-backup/lull/snapshot/image/imagetest"
	"github.com/lull-backup/lull/transport/repo"
)

// TestMain makes the test binary stand in for lull, so that the scripts run the
// real lull in processes of their own; but for keys whose passphrases are cheap to try,
// which hundreds of commands do.
func TestMain(m *testing.M) {
	crashing()
	testscript.Main(m, map[string]func(){"lull": func() {
		app := processApp()
		app.Cost = cheap()
		os.Exit(serve(app))
	}, keeperName: serveKeeper})
}

// cheap is a key that is tried in no time.
func cheap() repo.Cost { return repo.Cost{Time: 1, Memory: 64, Threads: 1} }

// TestScripts runs testdata/script/*.txtar, one for each command and each kind
// of bad input that needs no guest. One alone: go test -run TestScripts/NAME
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("STATE_DIRECTORY", filepath.Join(env.WorkDir, ".state"))
			env.Setenv("CACHE_DIRECTORY", filepath.Join(env.WorkDir, ".cache"))
			env.Setenv("TZ", "UTC")
			env.Values[testKey{}] = t
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":      exits,
			"disk":       makeDisk,
			"qimg":       qemuImg,
			"hold":       hold,
			"small":      smallFileSystem,
			"flip":       flip,
			"oneline":    oneLine,
			"leaves":     leaves,
			"checkpoint": checkpoint,
			"locked":     locked,
			"until":      until,
			"interrupts": interrupts,
			"nobody":     nobody,
			"killed":     killed,
		},
	})
}

// exits CODE lull ARGS...: the command ends with this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// disk PATH SIZE SEED: an image file of SIZE MiB with some data, some text, some
// holes, the same for the same seed. Raw, or qcow2 when PATH says so.
func makeDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: disk PATH MIB SEED")
	}
	path := ts.MkAbs(args[0])
	mib, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	seed, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	raw := path
	if filepath.Ext(path) == ".qcow2" {
		raw += ".raw"
	}
	ts.Check(writeDisk(raw, mib<<20, seed))
	if raw != path {
		run(ts, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
		ts.Check(os.Remove(raw))
	}
}

// checkpoint BASE TOP: a VHDX of 24 MiB, and an AVHDX that was made on it.
func checkpoint(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: checkpoint BASE TOP")
	}
	const id, topID = "a0a0a0a0-0001-0002-0003-000000000001", "c0c0c0c0-0001-0002-0003-000000000003"
	base := imagetest.VHDX{Size: 24 << 20, Block: 1 << 20, ID: id, Writes: []imagetest.Write{imagetest.Fill(0, 2<<20, 1), imagetest.Fill(20<<20, 512, 2)}}
	top := imagetest.VHDX{Size: 24 << 20, Block: 1 << 20, ID: topID, Parent: &imagetest.Parent{ID: id, Path: `.\` + filepath.Base(args[0])},
		Writes: []imagetest.Write{imagetest.Fill(512, 1024, 3), imagetest.Fill(10<<20, 9<<20, 4)}}
	t := ts.Value(testKey{}).(*testing.T)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), base.Bytes(t), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), top.Bytes(t), 0o600))
}

// testKey is where a script finds its test.
type testKey struct{}

// writeDisk fills about half of a sparse file, in runs of 64 KiB.
func writeDisk(path string, size int64, seed uint64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	rng := rand.New(rand.NewPCG(seed, 1))
	buf := make([]byte, 64<<10)
	for off := int64(0); off+int64(len(buf)) <= size; off += int64(len(buf)) {
		switch rng.IntN(4) {
		case 0:
			for i := range buf {
				buf[i] = byte(rng.Uint32())
			}
		case 1:
			line := fmt.Sprintf("line %d of disk %d\n", off, seed)
			copy(buf, strings.Repeat(line, len(buf)/len(line)+1))
		default:
			continue
		}
		if _, err := f.WriteAt(buf, off); err != nil {
			return err
		}
	}
	return f.Truncate(size)
}

// qimg ARGS...: qemu-img, with a word about where it comes from.
func qemuImg(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("unsupported: ! qimg")
	}
	abs := make([]string, len(args))
	copy(abs, args)
	run(ts, "qemu-img", abs...)
}

func run(ts *testscript.TestScript, name string, args ...string) {
	if _, err := exec.LookPath(name); err != nil {
		ts.Fatalf("%s is missing: apt-get install qemu-utils", name)
	}
	ts.Check(ts.Exec(name, args...))
}

// hold PATH FORMAT: another process holds the image open for writing until the
// script ends.
func hold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hold PATH FORMAT")
	}
	socket := ts.MkAbs("hold.sock")
	cmd := exec.Command("qemu-nbd", "--persistent", "-k", socket, "-f", args[1], ts.MkAbs(args[0]))
	if err := cmd.Start(); err != nil {
		ts.Fatalf("start qemu-nbd (apt-get install qemu-utils): %v", err)
	}
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-tick.C {
		if conn, err := net.Dial("unix", socket); err == nil {
			ts.Check(conn.Close())
			return
		}
	}
	ts.Fatalf("qemu-nbd did not begin to serve %s", args[0])
}

// small DIR SIZE: a file system of its own, SIZE as mount says it, such as 4m.
func smallFileSystem(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: small DIR SIZE")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]); err != nil {
		ts.Fatalf("mount a small tmpfs (this test runs as root): %v", err)
	}
	ts.Defer(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			ts.Logf("unmount %s: %v", dir, err)
		}
	})
}

// flip GLOB: one bit in the middle of the largest file that matches is wrong.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flip DIR")
	}
	var largest string
	var most int64
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > most {
			largest, most = path, info.Size()
		}
		return err
	}))
	if largest == "" {
		ts.Fatalf("no file in %s", args[0])
	}
	data, err := os.ReadFile(largest)
	ts.Check(err)
	data[len(data)/2] ^= 0x10
	ts.Check(os.Chmod(largest, 0o600))
	ts.Check(os.WriteFile(largest, data, 0o600))
	ts.Logf("flipped a bit in %s", largest)
}

// oneline: stderr of the last command is exactly one line, and it is an error's.
func oneLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: oneline")
	}
	text := ts.ReadFile("stderr")
	if strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "lull: ") {
		ts.Fatalf("stderr is not one line of an error:\n%s", text)
	}
}

// leaves DIR NAME...: the folder holds these names and nothing else.
func leaves(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: leaves DIR NAME...")
	}
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(args[1:]) {
		ts.Fatalf("%s holds %v, want %v", args[0], got, args[1:])
	}
}

// locked FILE: another process has the file locked until the script ends.
func locked(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: locked FILE")
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	ts.Defer(func() { _ = f.Close() })
	ts.Check(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
}

// until PATTERN COMMAND ARGS...: run the command again and again until its
// output matches, for two minutes at most.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND ARGS...")
	}
	want := regexp.MustCompile(args[0])
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); <-tick.C {
		if err := ts.Exec(args[1], args[2:]...); err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
	}
	ts.Fatalf("%v did not come to show %s", args[1:], args[0])
}

// interrupts CODE STEP lull ARGS...: the command gets SIGTERM, twice, as soon as
// its --json shows the step, and ends with this exit code.
func interrupts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: interrupts CODE STEP lull ARGS...")
	}
	script := `step=$1; shift; : > events; "$@" > events & pid=$!
		tail -n +1 -f --pid=$pid events | grep -q "\"step\":\"$step\"" && kill -TERM $pid && kill -TERM $pid
		wait $pid; code=$?; cat events; exit $code`
	exits(ts, false, append([]string{args[0], "sh", "-c", script, "sh", args[1]}, args[2:]...))
}

// nobody CODE ARGS...: lull, run by a user who owns nothing, ends with this exit
// code.
func nobody(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: nobody CODE ARGS...")
	}
	// The way to the work folder is shut to others, and so is the lull in $PATH.
	work := ts.MkAbs(".")
	ts.Check(os.Chmod(filepath.Dir(work), 0o711))
	ts.Check(os.Chmod(work, 0o755))
	self, err := os.Executable()
	ts.Check(err)
	lull := filepath.Join(work, ".nobody", "lull") // the name says which command it is
	ts.Check(os.MkdirAll(filepath.Dir(lull), 0o755))
	run(ts, "install", "-m", "755", self, lull)
	exits(ts, false, append([]string{args[0], "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", lull}, args[1:]...))
}

// killed STEP ARGS...: lull gets SIGKILL as soon as its --json shows the step.
func killed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: killed STEP ARGS...")
	}
	script := `step=$1; shift; mkfifo events; lull "$@" --json > events & pid=$!
		grep -q -m1 "\"step\":\"$step\"" < events && kill -KILL $pid; wait $pid; code=$?; rm events; exit $code`
	exits(ts, false, append([]string{"137", "sh", "-c", script, "sh"}, args...))
}
