package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/space"
)

// counter is a VM that runs, whose guest ends it where its memory and its two disks are not
// of one instant.
type counter struct{ *lifeline }

func newCounter(t *testing.T) *counter {
	t.Helper()
	return newCounterAt(t, shape{format: snapshot.FormatQcow2, drive: true, bus: "virtio", disks: 2})
}

func newCounterAt(t *testing.T, s shape) *counter {
	t.Helper()
	l := newLifeline(t, s, func(v *testVM) {
		inMemory(v)
		v.boot = guesttest.CountingSector()
		v.more = []string{"-device", guesttest.CounterDevice}
	})
	c := &counter{l}
	l.ask("cont", nil, nil)
	c.counts("at first")
	return c
}

// number is what the guest has counted to.
func (c *counter) number() (n int64) {
	c.t.Helper()
	said, err := c.monitor(guesttest.Counter)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := fmt.Sscanf(said[strings.IndexByte(said, ':')+1:], " %v", &n); err != nil {
		c.t.Fatalf("the guest's count: %v: %q", err, said)
	}
	return n
}

// counts proves that the guest runs, and that all it sees is of one instant.
func (c *counter) counts(when string) {
	c.t.Helper()
	at, steps := int64(-1), 0
	eventually(c.t, "the guest counts "+when, func() bool {
		select {
		case <-c.ended:
			c.t.Fatalf("%s the guest's memory and its disks are of different instants", when)
		default:
		}
		n := c.number()
		if n == at+1 {
			steps++
		}
		at = n
		return steps >= 2
	})
}

// sound proves that the guest runs from the images that its paths name, that it counts, and
// that no file is left over.
func (c *counter) sound(when string) {
	c.t.Helper()
	if s := c.state(); s != "running" {
		c.t.Fatalf("%s the VM is %s", when, s)
	}
	c.named(when)
	c.counts(when)
}

// named proves that a start from the paths would be from what the VM runs from.
func (l *lifeline) named(when string) {
	l.t.Helper()
	for disk := range l.Want {
		for _, b := range l.blocks() {
			if b.QDev != l.at(disk).QDev {
				continue
			}
			file := b.Inserted.File
			if text, ok := strings.CutPrefix(file, "json:"); ok { // another backing image than the header's
				var top struct{ File struct{ Filename string } }
				if err := json.Unmarshal([]byte(text), &top); err != nil {
					l.t.Error(err)
				}
				file = top.File.Filename
			}
			if same, err := sameFile(file, l.own(disk)); err != nil || !same {
				l.t.Errorf("%s disk %s runs from %s, which its path does not name: %v", when, disk, b.Inserted.File, err)
			}
		}
	}
}

// An operation that is interrupted at any of its steps leaves a guest that runs, from the
// images that its paths name, with memory and disks that belong together; before anybody
// repairs anything.
func TestCheckpointCutShort(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]func(*counter, context.Context) error{
		"create": func(c *counter, ctx context.Context) error {
			return c.TryCreate(ctx, snapshot.NewCheckpoint{Memory: true})
		},
		"create without memory": func(c *counter, ctx context.Context) error { return c.TryCreate(ctx, snapshot.NewCheckpoint{}) },
		"apply":                 func(c *counter, ctx context.Context) error { return c.TryApply(ctx, "first", false) },
		"merge":                 func(c *counter, ctx context.Context) error { return c.TryMerge(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shape{format: snapshot.FormatQcow2, drive: true, bus: "virtio", disks: 2}
			if name == "apply" {
				s = shape{format: snapshot.FormatQcow2, bus: "iothread", disks: 2}
			}
			c := newCounterAt(t, s)
			if name == "apply" {
				c.Create(snapshot.NewCheckpoint{Name: "first", Memory: true})
			}
			for n := 1; !t.Failed(); n++ {
				for name == "merge" && len(c.Tree().List) < 2 {
					c.Create(snapshot.NewCheckpoint{})
				}
				step := c.Interrupted(n, func(ctx context.Context) error { return op(c, ctx) })
				c.sound("after " + step)
				c.Recovers(step)
				c.Tidy("recovered after " + step)
				c.named("recovered after " + step)
				if step == "" {
					break
				}
			}
			c.fromItsPaths()
		})
	}
}

// fromItsPaths proves that the guest starts anew from the paths of its disks.
func (c *counter) fromItsPaths() {
	c.t.Helper()
	c.kill()
	c.start(c.disks)
	c.ask("cont", nil, nil)
	c.counts("started anew")
}

// blocked keeps an image from being put in its place, until it is undone.
func (c *counter) blocked(run, ending string) (undo func()) {
	c.t.Helper()
	var temps []string
	for disk := range c.Want {
		temp := beside(c.own(disk), run, ending) + placeEnding
		temps = append(temps, temp)
		if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.t.Error(err)
		}
		if err := os.MkdirAll(filepath.Join(temp, "x"), 0o700); err != nil {
			c.t.Error(err)
		}
	}
	return func() {
		for _, temp := range temps {
			if err := os.RemoveAll(temp); err != nil {
				c.t.Error(err)
			}
		}
	}
}

// An image that cannot be put in its place keeps the guest from going on: what it wrote
// would not be in the image that its path names. Whoever stands by is told, and when it can
// be, the guest goes on.
func TestCheckpointNotPlaced(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		memory     bool
		at, ending string
		remove     bool
	}{
		"create":                {true, "create-settling", ownEnding, false},
		"create without memory": {false, "create-settling", ownEnding, false},
		"delete":                {false, "fold-placing", layerEnding, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t)
			id := ""
			if test.remove {
				id = c.Create(snapshot.NewCheckpoint{})
			}
			undo, ends, blocked := func() {}, []bool{}, false
			c.host.opt.Guard = func(context.Context, string) (func(context.Context, bool) error, error) {
				return func(_ context.Context, runs bool) error { ends = append(ends, runs); return nil }, nil
			}
			c.host.opt.Observe = func(_, step string) {
				if step == test.at && !blocked {
					blocked, undo = true, c.blocked(c.under(id), test.ending)
				}
			}
			err := c.do(id, snapshot.NewCheckpoint{Memory: test.memory})
			if err == nil {
				t.Fatal("it is done, and its images have not their places")
			}
			if s := c.state(); s == "running" {
				t.Errorf("the VM is %s", s)
			}
			if len(ends) != 1 || ends[0] {
				t.Errorf("whoever stands by was told %v", ends)
			}
			c.host.opt.Observe = nil
			undo()
			if err := c.host.ReleaseCheckpoint(c.ctx, "web"); err != nil {
				t.Fatal(err)
			}
			c.sound("let go")
			c.Recovers(test.at)
			c.sound("recovered")
			c.Tidy("recovered")
			if n := len(c.Tree().List); n > 0 {
				t.Errorf("%d checkpoints", n)
			}
			c.fromItsPaths()
		})
	}
}

// under is what the files of an operation under way are called by.
func (c *counter) under(id string) string {
	c.t.Helper()
	if id != "" {
		return id
	}
	at, err := c.host.checkpointing("web")
	if err != nil || at.tree.Op == nil {
		c.t.Fatalf("no operation: %v", err)
	}
	return at.tree.Op.Run
}

// do deletes a checkpoint, or makes one.
func (c *counter) do(id string, n snapshot.NewCheckpoint) error {
	if id != "" {
		return c.host.DeleteCheckpoints(c.ctx, "web", id, false)
	}
	return c.TryCreate(c.ctx, n)
}

// Memory that cannot be loaded is found out before the VM is stopped, where that can be;
// else the guest starts from the checkpoint's disks, as after a loss of power.
func TestCheckpointMemoryBroken(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	id := c.Create(snapshot.NewCheckpoint{Memory: true})
	memory := beside(c.own(c.first()), id, memoryEnding)
	info, err := os.Stat(memory)
	if err != nil {
		t.Fatal(err)
	}
	c.counts("with a checkpoint")
	whole, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(memory, info.Size()/2); err != nil {
		t.Fatal(err)
	}
	before := c.number()
	if err := c.TryApply(c.ctx, id, false); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("half a memory: %v", err)
	}
	c.sound("with half a memory")
	if now := c.number(); now < before {
		t.Errorf("the guest had counted to %d, and is at %d", before, now)
	}
	c.Tidy("with half a memory")
	at := strings.Index(string(whole), "QEVM")
	if at < 0 {
		t.Fatal("no stream in the memory")
	}
	copy(whole[at:], "MVEQ")
	if err := os.WriteFile(memory, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.TryApply(c.ctx, id, false); !errors.Is(err, errLoad) {
		t.Errorf("a broken memory: %v", err)
	}
	c.sound("with a broken memory")
	c.Tidy("with a broken memory")
	if now := c.Tree().Now; now != id {
		t.Errorf("the VM rests upon %q", now)
	}
}

// first is one of the disks, that beside which memory is kept.
func (c *counter) first() string {
	c.t.Helper()
	at, err := c.host.checkpointing("web")
	if err != nil || len(at.tree.Disks) == 0 {
		c.t.Fatalf("no disks: %v", err)
	}
	return at.tree.Disks[0].Name
}

// A VM stands still no longer than it may, and nothing is done to one for which nobody would
// stand by.
func TestCheckpointStop(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	id := c.Create(snapshot.NewCheckpoint{Memory: true})
	c.host.opt.CheckpointStop = time.Millisecond
	if err := c.TryCreate(c.ctx, snapshot.NewCheckpoint{Memory: true}); !errors.Is(err, errTooLong) {
		t.Errorf("create: %v", err)
	}
	c.sound("after a create that took too long")
	if err := c.TryApply(c.ctx, id, false); !errors.Is(err, errTooLong) {
		t.Errorf("apply: %v", err)
	}
	c.sound("after an apply that took too long")
	c.host.opt.CheckpointStop = time.Minute
	nobody := errors.New("nobody")
	c.host.opt.Guard = func(context.Context, string) (func(context.Context, bool) error, error) { return nil, nobody }
	if err := c.TryCreate(c.ctx, snapshot.NewCheckpoint{}); !errors.Is(err, nobody) {
		t.Errorf("create: %v", err)
	}
	if err := c.TryApply(c.ctx, id, false); !errors.Is(err, nobody) {
		t.Errorf("apply: %v", err)
	}
	c.Tidy("after all")
	if n := len(c.Tree().List); n != 1 {
		t.Errorf("%d checkpoints", n)
	}
	c.sound("after all")
}

// loads is how often QEMU begins to load memory, since it was last asked.
func (l *lifeline) loads() (count func() int) {
	sub := l.hands.Subscribe("JOB_STATUS_CHANGE")
	l.t.Cleanup(sub.Close)
	return func() (n int) {
		for {
			select {
			case e := <-sub.Events():
				if said := string(e.Data); strings.Contains(said, `"created"`) && strings.Contains(said, `-load"`) {
					n++
				}
			default:
				return n
			}
		}
	}
}

// leave takes room, until so many bytes are free.
func leave(t *testing.T, dir string, free int64) (filler string) {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(s.Bavail)*s.Bsize-free); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// Nothing is merged where that would not leave the room that backups leave, and what is
// begun ends when it gets tight. Everything works meanwhile, and with room it is done.
func TestCheckpointRoom(t *testing.T) {
	t.Parallel()
	l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 2}, func(v *testVM) {
		smallFS(v.t, v.dir+"/disks", "40m")
		v.free = 4 << 20
	})
	fillDisks := func(b byte) {
		for disk := range l.Want {
			if err := l.write(disk, 1<<20, 3<<20, b); err != nil {
				t.Fatal(err)
			}
			copy(l.Want[disk][1<<20:], strings.Repeat(string(rune(b)), 3<<20))
		}
	}
	id := l.Create(snapshot.NewCheckpoint{})
	fillDisks(0x33)
	filler := leave(t, l.dir+"/disks", 7<<20) // both take 3 MiB, and 4 MiB stay
	err := l.host.DeleteCheckpoints(l.ctx, "web", id, false)
	if !errors.Is(err, snapshot.ErrNoSpace) {
		t.Errorf("without room: %v", err)
	}
	l.Right()
	if tree := l.Tree(); len(tree.List) != 1 || tree.List[0].Deleted || tree.Tight == "" {
		t.Errorf("it is marked, or nobody is warned: %+v", tree)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	l.host.opt.Observe = func(_, step string) {
		if step == "fold-disk" && filler != "" {
			leave(t, l.dir+"/disks", 2<<20)
			filler = ""
		}
	}
	if err := l.host.DeleteCheckpoints(l.ctx, "web", id, false); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Errorf("the room goes meanwhile: %v", err)
	}
	l.Forget()
	if found, err := l.host.RecoverCheckpoints(l.ctx, "web"); found || err != nil {
		t.Errorf("recovery without room: %v, %v", found, err)
	}
	l.Right()
	if err := os.Remove(l.dir + "/disks/filler"); err != nil {
		t.Fatal(err)
	}
	if found, err := l.host.RecoverCheckpoints(l.ctx, "web"); !found || err != nil {
		t.Errorf("recovery: %v, %v", found, err)
	}
	l.Right()
	if n := len(l.Tree().List); n > 0 {
		t.Errorf("%d checkpoints", n)
	}
}

// The same holds for images that are merged with QEMU gone.
func TestCheckpointRoomOff(t *testing.T) {
	t.Parallel()
	l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1}, func(*testVM) {})
	id := l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	l.Off()
	l.host.opt.Space = space.LeaveFree(1 << 60)
	if err := l.host.DeleteCheckpoints(l.ctx, "web", id, false); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Errorf("without room: %v", err)
	}
	l.host.opt.Space = space.Limits{}
	l.Delete(id, false)
	l.Boot()
	l.Right()
}
