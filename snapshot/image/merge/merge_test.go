package merge

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/image/imagetest"
	"github.com/lull-backup/lull/snapshot/image/layer"
	"github.com/lull-backup/lull/snapshot/image/vhd"
)

const (
	baseID   = "a0a0a0a0-0001-0002-0003-000000000001"
	parentID = "b0b0b0b0-0001-0002-0003-000000000002"
	childID  = "c0c0c0c0-0001-0002-0003-000000000003"

	size  = 3 << 20
	stamp = 700000000
)

// family is a parent, perhaps made on a base itself, and its child.
type family struct {
	format              snapshot.Format
	parent, child, base []byte // base is nil where there is none
	disk                []byte // of the child
}

// pattern is data that no other place has.
func pattern(off int64, n int, seed uint64) imagetest.Write {
	rng := rand.New(rand.NewPCG(seed, uint64(off)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return imagetest.Write{Off: off, Data: b}
}

func families(t testing.TB) map[string]family {
	baseWrites := []imagetest.Write{pattern(0, 64<<10, 1), pattern(2<<20, 4096, 2)}
	parentWrites := []imagetest.Write{pattern(4096, 8192, 3), pattern(1<<20+512, 2048, 4)}
	childWrites := []imagetest.Write{pattern(512, 4096, 5), pattern(1<<20, 1024, 6), pattern(2<<20-1024, 4096, 7), pattern(size-512, 512, 8), imagetest.Fill(8192, 2048, 0)}
	empty := make([]byte, size)
	below := &imagetest.Parent{ID: baseID, Path: `.\base`}
	above := &imagetest.Parent{ID: parentID, Path: `.\parent`, Stamp: stamp}
	alone, onBase := imagetest.Apply(imagetest.Apply(empty, parentWrites), childWrites), imagetest.Apply(imagetest.Apply(imagetest.Apply(empty, baseWrites), parentWrites), childWrites)
	const block = 256 << 10
	vhd := func(p *imagetest.Parent, block int64) []byte {
		return imagetest.VHD{Size: size, Block: block, ID: parentID, Stamp: stamp, Parent: p, Writes: parentWrites}.Bytes(t)
	}
	vhdx := func(p *imagetest.Parent) []byte {
		return imagetest.VHDX{Size: size, Block: 1 << 20, ID: parentID, Parent: p, Writes: parentWrites, States: map[int64]uint8{2: 2}}.Bytes(t)
	}
	vhdChild := imagetest.VHD{Size: size, Block: block, ID: childID, Parent: above, Writes: childWrites}.Bytes(t)
	vhdxChild := imagetest.VHDX{Size: size, Block: 1 << 20, ID: childID, Parent: above, Writes: childWrites}.Bytes(t)
	onBaseVHDX := imagetest.Apply(imagetest.Apply(imagetest.Apply(imagetest.Apply(empty, baseWrites), []imagetest.Write{imagetest.Fill(2<<20, 1<<20, 0)}), parentWrites), childWrites)
	return map[string]family{
		"vhd, fixed":         {snapshot.FormatVHD, vhd(nil, 0), vhdChild, nil, alone},
		"vhd, dynamic":       {snapshot.FormatVHD, vhd(nil, block), vhdChild, nil, alone},
		"vhd, differencing":  {snapshot.FormatVHD, vhd(below, block*2), vhdChild, imagetest.VHD{Size: size, ID: baseID, Writes: baseWrites}.Bytes(t), onBase},
		"vhdx, dynamic":      {snapshot.FormatVHDX, vhdx(nil), vhdxChild, nil, alone},
		"vhdx, differencing": {snapshot.FormatVHDX, vhdx(below), vhdxChild, imagetest.VHDX{Size: size, Block: 1 << 20, ID: baseID, Writes: baseWrites}.Bytes(t), onBaseVHDX},
	}
}

// live puts a family into a folder and returns the child's path.
func (f family) live(t testing.TB, dir string) string {
	t.Helper()
	for name, b := range map[string][]byte{"base": f.base, "parent": f.parent, "child": f.child} {
		if b == nil {
			continue
		}
		if err := writeSparse(filepath.Join(dir, name), b); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "child")
}

// again puts the parent back as it was.
func (f family) again(dir string) error { return writeSparse(filepath.Join(dir, "parent"), f.parent) }

func writeSparse(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	empty := make([]byte, 4096)
	for at := 0; at < len(b); at += len(empty) {
		page := b[at:min(at+len(empty), len(b))]
		if bytes.Equal(page, empty[:len(page)]) {
			continue
		}
		if _, err := f.WriteAt(page, int64(at)); err != nil {
			return err
		}
	}
	return f.Truncate(int64(len(b)))
}

// content is the disk of an image with its chain.
func content(t testing.TB, path string, format snapshot.Format) []byte {
	t.Helper()
	layers, err := image.ResolveChain(path, format)
	if err != nil {
		t.Fatal(err)
	}
	src, err := image.OpenChain(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	b := make([]byte, src.Size())
	if err := src.ReadAt(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// merged sees that a merge came to its end: the parent's disk is what the child's
// was, the child is untouched or gone, and nothing else is left.
func (f family) merged(t testing.TB, dir string, discarded bool) {
	t.Helper()
	if !bytes.Equal(content(t, filepath.Join(dir, "parent"), f.format), f.disk) {
		t.Error("the parent is not what the child was")
	}
	child, err := os.ReadFile(filepath.Join(dir, "child"))
	if discarded != os.IsNotExist(err) || !discarded && !bytes.Equal(child, f.child) {
		t.Errorf("the child was changed, or removed: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.lull*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRun(t *testing.T) {
	for name, f := range families(t) {
		for _, discard := range []bool{false, true} {
			t.Run(fmt.Sprint(name, discard), func(t *testing.T) {
				dir := t.TempDir()
				child := f.live(t, dir)
				if !bytes.Equal(content(t, child, f.format), f.disk) {
					t.Fatal("the family is not what it should be")
				}
				var done int64
				res, err := Run(t.Context(), Job{Child: child, Format: f.format, Discard: discard, Progress: func(at, _ int64) { done = at }})
				if err != nil {
					t.Fatal(err)
				}
				if res.Parent != filepath.Join(dir, "parent") || res.Discarded != discard || res.Resumed || res.Written == 0 || done != size {
					t.Errorf("%+v, progress to %d", res, done)
				}
				f.merged(t, dir, discard)
				if _, err := Run(t.Context(), Job{Child: child, Format: f.format}); err == nil && f.format == snapshot.FormatVHDX {
					t.Error("merged twice: the parent is another now")
				}
				if !discard && f.format == snapshot.FormatVHDX {
					if _, err := image.ResolveChain(child, f.format); !errors.Is(err, snapshot.ErrCorrupt) {
						t.Errorf("the child upon the parent that it was merged into: %v", err)
					}
				}
			})
		}
	}
}

// TestOracles has others read what a merge made: QEMU, and libvhdi where there is a
// parent still. Of differencing VHDs libvhdi reads the first block only as the format
// has it: in the others, sectors of the parent behind the image's own read as zeros.
func TestOracles(t *testing.T) {
	const script = `
import sys, pyvhdi
top, base = pyvhdi.file(), pyvhdi.file()
top.open(sys.argv[1])
base.open(sys.argv[2])
top.set_parent(base)
open(sys.argv[3], "wb").write(top.read_buffer(top.get_media_size()))
`
	img, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Fatal("qemu-img is missing: apt-get install qemu-utils")
	}
	all := families(t)
	delete(all, "vhd, differencing")
	for name, f := range all {
		dir := t.TempDir()
		child, parent, raw := f.live(t, dir), filepath.Join(dir, "parent"), filepath.Join(dir, "raw")
		if _, err := Run(t.Context(), Job{Child: child, Format: f.format}); err != nil {
			t.Fatal(err)
		}
		driver := map[snapshot.Format]string{snapshot.FormatVHD: "vpc", snapshot.FormatVHDX: "vhdx"}[f.format]
		cmd := exec.Command(img, "convert", "-f", driver, "-O", "raw", parent, raw)
		if f.base != nil { // apt-get install python3-libvhdi
			cmd = exec.Command("/usr/bin/python3", "-c", script, parent, filepath.Join(dir, "base"), raw)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %q: %v\n%s", name, cmd.Args, err, out)
		}
		if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, f.disk) {
			t.Errorf("%s: it is read otherwise: %v", name, err)
		}
	}
}

var errCrash = errors.New("crash")

// crashing is a disk whose machine stops after some steps. What was not synced by
// then is there, or not, or in part, as rng says; nil: it is there, as after kill -9.
// Nothing is really synced.
type crashing struct {
	steps int
	rng   *rand.Rand
}

// crashDevice keeps what is durable, and what may be.
type crashDevice struct {
	*os.File
	c       *crashing
	durable []byte
	since   []func(b []byte) []byte
}

func (c *crashing) step() error {
	if c.steps--; c.steps < 0 {
		return errCrash
	}
	return nil
}

func (c *crashing) device(f *os.File) layer.Device {
	d := &crashDevice{File: f, c: c}
	if c.rng != nil {
		var err error
		if d.durable, err = os.ReadFile(f.Name()); err != nil {
			panic(err)
		}
	}
	return d
}

func (c *crashing) replace(path string, data []byte) error {
	if err := c.step(); err != nil {
		if c.rng == nil || c.rng.IntN(2) == 0 {
			return err
		}
		return errors.Join(err, os.WriteFile(path, data, 0o600)) // it was durable just before
	}
	return os.WriteFile(path, data, 0o600)
}

func (c *crashing) remove(path string) error {
	if err := c.step(); err != nil {
		return err
	}
	return os.Remove(path)
}

// crash leaves the file as a disk may have it.
func (d *crashDevice) crash() error {
	if d.c.rng == nil {
		return errCrash
	}
	b := slices.Clone(d.durable)
	for _, op := range d.since {
		if d.c.rng.IntN(3) > 0 {
			b = op(b)
		}
	}
	if err := writeSparse(d.Name(), b); err != nil {
		return err
	}
	return errCrash
}

func (d *crashDevice) WriteAt(p []byte, off int64) (int, error) {
	stop := d.c.step() != nil
	data, torn := slices.Clone(p), -1
	if stop && d.c.rng != nil {
		torn = d.c.rng.IntN(len(p) + 1)
	}
	d.since = append(d.since, func(b []byte) []byte {
		if grow := off + int64(len(data)) - int64(len(b)); grow > 0 {
			b = append(b, make([]byte, grow)...)
		}
		if torn >= 0 {
			copy(b[off:], data[:torn])
			return b
		}
		copy(b[off:], data)
		return b
	})
	if stop {
		return 0, d.crash()
	}
	return d.File.WriteAt(p, off)
}

func (d *crashDevice) Truncate(n int64) error {
	if d.c.step() != nil {
		return d.crash()
	}
	d.since = append(d.since, func(b []byte) []byte {
		return append(b[:min(n, int64(len(b)))], make([]byte, max(0, n-int64(len(b))))...)
	})
	return d.File.Truncate(n)
}

func (d *crashDevice) Sync() error {
	if d.c.step() != nil {
		return d.crash()
	}
	for _, op := range d.since {
		if d.c.rng != nil {
			d.durable = op(d.durable)
		}
	}
	d.since = nil
	return nil
}

// TestCrash stops the machine after every step of a merge, and merges again.
func TestCrash(t *testing.T) {
	for name, f := range families(t) {
		for _, lose := range []bool{false, true} {
			t.Run(fmt.Sprint(name, lose), func(t *testing.T) {
				t.Parallel()
				dir, steps := t.TempDir(), 0
				child := f.live(t, dir)
				whole := filepath.Join(dir, "whole")
				if err := os.Link(child, whole); err != nil {
					t.Fatal(err)
				}
				for done := false; !done; steps++ {
					if err := errors.Join(f.again(dir), os.Link(whole, child)); steps > 0 && err != nil {
						t.Fatal(err)
					}
					c := &crashing{steps: steps}
					if lose {
						c.rng = rand.New(rand.NewPCG(uint64(steps), 9))
					}
					job := Job{Child: child, Format: f.format, Discard: true, disk: c, batch: 4096}
					_, err := Run(t.Context(), job)
					if done = err == nil; !done && !errors.Is(err, errCrash) {
						t.Fatalf("after %d steps: %v", steps, err)
					}
					if !done {
						job.disk = &crashing{steps: 1 << 30}
						if _, err := Run(t.Context(), job); err != nil {
							t.Fatalf("again after %d steps: %v", steps, err)
						}
					}
					f.merged(t, dir, true)
					if t.Failed() {
						t.Fatalf("after %d steps", steps)
					}
				}
				if steps < 15 {
					t.Errorf("%d steps only", steps)
				}
			})
		}
	}
}

// TestCrashTwice stops the merge, and then what goes on with it.
func TestCrashTwice(t *testing.T) {
	f := families(t)["vhdx, differencing"]
	rng, dir := rand.New(rand.NewPCG(5, 6)), t.TempDir()
	child := f.live(t, dir)
	for range 15 {
		if err := f.again(dir); err != nil {
			t.Fatal(err)
		}
		for n := range 6 {
			job := Job{Child: child, Format: f.format, disk: &crashing{steps: rng.IntN(30), rng: rng}, batch: 4096}
			if n == 5 {
				job.disk = &crashing{steps: 1 << 30}
			}
			_, err := Run(t.Context(), job)
			if err == nil {
				break
			}
			if !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
		}
		f.merged(t, dir, false)
	}
}

// TestUnfinished: a parent that is half merged is not read, and waits for its child.
func TestUnfinished(t *testing.T) {
	f, dir := families(t)["vhdx, dynamic"], t.TempDir()
	child := f.live(t, dir)
	if _, err := Run(t.Context(), Job{Child: child, Format: f.format, disk: &crashing{steps: 9}, batch: 4096}); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	parent := filepath.Join(dir, "parent")
	for _, path := range []string{parent, child} {
		if _, err := image.ResolveChain(path, f.format); !errors.Is(err, snapshot.ErrMergePending) {
			t.Errorf("%s is read: %v", path, err)
		}
	}
	if who, err := Pending(parent); who != child || err != nil {
		t.Errorf("%q, %v", who, err)
	}
	other := f
	other.child = imagetest.VHDX{Size: size, Block: 1 << 20, ID: baseID, Parent: &imagetest.Parent{ID: parentID, Path: `.\parent`}}.Bytes(t)
	if err := os.WriteFile(filepath.Join(dir, "other"), other.child, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), Job{Child: filepath.Join(dir, "other"), Format: f.format}); !errors.Is(err, snapshot.ErrMergePending) {
		t.Errorf("another child is merged: %v", err)
	}
	if _, err := Run(t.Context(), Job{Child: child, Format: f.format}); err != nil {
		t.Fatal(err)
	}
	f.merged(t, dir, false)
}

// TestWrittenSinceTheCrash: a parent that others wrote to after a merge was cut off is
// not touched.
func TestWrittenSinceTheCrash(t *testing.T) {
	for name, c := range map[string]struct {
		meddle func(t *testing.T, parent string)
		want   error
	}{
		"vhdx, dynamic": {func(t *testing.T, parent string) {
			b := imagetest.VHDX{Size: size, Block: 1 << 20, ID: baseID}.Bytes(t)
			if err := os.WriteFile(parent, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, snapshot.ErrCorrupt},
		"vhd, dynamic": {func(t *testing.T, parent string) {
			if err := os.Chtimes(parent, time.Time{}, time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}, snapshot.ErrInexact},
	} {
		f, dir := families(t)[name], t.TempDir()
		child, parent := f.live(t, dir), filepath.Join(dir, "parent")
		if _, err := Run(t.Context(), Job{Child: child, Format: f.format, disk: &crashing{steps: 12}, batch: 4096}); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(parent, link); err != nil {
			t.Fatal(err)
		}
		if _, err := image.Inspect(link, f.format); !errors.Is(err, snapshot.ErrMergePending) {
			t.Errorf("%s: half merged, by a link: %v", name, err)
		}
		c.meddle(t, parent)
		before, _ := os.ReadFile(parent)
		if _, err := Run(t.Context(), Job{Child: child, Format: f.format}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if after, _ := os.ReadFile(parent); !bytes.Equal(before, after) {
			t.Errorf("%s: the parent was written to", name)
		}
	}
}

func TestRefused(t *testing.T) {
	all := families(t)
	write := func(t *testing.T, path string, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sibling := imagetest.VHDX{Size: size, Block: 1 << 20, ID: baseID, Parent: &imagetest.Parent{ID: parentID, Path: `.\parent`}}.Bytes(t)
	grandchild := imagetest.VHDX{Size: size, Block: 1 << 20, ID: baseID, Parent: &imagetest.Parent{ID: childID, Path: `.\child`}}.Bytes(t)
	for name, c := range map[string]struct {
		family string
		change func(t *testing.T, dir string, job *Job)
		want   error
	}{
		"parent written to": {"vhdx, dynamic", func(t *testing.T, dir string, _ *Job) {
			write(t, filepath.Join(dir, "parent"), imagetest.VHDX{Size: size, Block: 1 << 20, ID: baseID}.Bytes(t))
		}, snapshot.ErrCorrupt},
		"parent of another time": {"vhd, dynamic", func(t *testing.T, dir string, _ *Job) {
			write(t, filepath.Join(dir, "parent"), imagetest.VHD{Size: size, Block: 1 << 20, ID: parentID, Stamp: stamp + 100}.Bytes(t))
		}, snapshot.ErrInexact},
		"parent's file of the right time": {"vhd, dynamic", func(t *testing.T, dir string, _ *Job) {
			write(t, filepath.Join(dir, "parent"), imagetest.VHD{Size: size, Block: 1 << 20, ID: parentID, Stamp: stamp + 100}.Bytes(t))
			if err := os.Chtimes(filepath.Join(dir, "parent"), time.Time{}, vhd.Time(stamp)); err != nil {
				t.Fatal(err)
			}
		}, nil},
		"parent of another time, by word": {"vhd, dynamic", func(t *testing.T, dir string, job *Job) {
			write(t, filepath.Join(dir, "parent"), imagetest.VHD{Size: size, Block: 1 << 20, ID: parentID, Stamp: stamp + 100}.Bytes(t))
			job.Unchanged = true
		}, nil},
		"parent resized": {"vhdx, dynamic", func(t *testing.T, dir string, _ *Job) {
			write(t, filepath.Join(dir, "parent"), imagetest.VHDX{Size: 2 * size, Block: 1 << 20, ID: parentID}.Bytes(t))
		}, snapshot.ErrUnsupported},
		"other sectors": {"vhdx, dynamic", func(t *testing.T, dir string, _ *Job) {
			write(t, filepath.Join(dir, "parent"), imagetest.VHDX{Size: size, Block: 1 << 20, Sector: 4096, ID: parentID}.Bytes(t))
		}, snapshot.ErrUnsupported},
		"parent with a log": {"vhdx, dynamic", func(t *testing.T, dir string, _ *Job) {
			v := imagetest.VHDX{Size: size, Block: 1 << 20, ID: parentID, Writes: []imagetest.Write{imagetest.Fill(0, 4096, 1)}}
			v.Log = []imagetest.LogEntry{{Sectors: map[int64][]byte{imagetest.DataAt: make([]byte, 4096)}}}
			write(t, filepath.Join(dir, "parent"), v.Bytes(t))
		}, snapshot.ErrUnsupported},
		"sibling":    {"vhdx, dynamic", func(t *testing.T, dir string, _ *Job) { write(t, filepath.Join(dir, "x.avhdx"), sibling) }, snapshot.ErrBusy},
		"grandchild": {"vhdx, dynamic", func(t *testing.T, dir string, _ *Job) { write(t, filepath.Join(dir, "x.AVHDX"), grandchild) }, snapshot.ErrBusy},
		"neighbour":  {"vhdx, dynamic", func(t *testing.T, dir string, _ *Job) { write(t, filepath.Join(dir, "x.vhdx"), []byte("text")) }, nil},
		"no parent":  {"vhdx, dynamic", func(t *testing.T, dir string, job *Job) { job.Child = filepath.Join(dir, "parent") }, snapshot.ErrUnsupported},
		"locked": {"vhdx, dynamic", func(t *testing.T, dir string, _ *Job) {
			src, err := image.OpenChain(t.Context(), []snapshot.Layer{{Path: filepath.Join(dir, "parent"), Format: snapshot.FormatVHDX}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { src.Close() })
		}, snapshot.ErrBusy},
		"damaged journal": {"vhdx, dynamic", func(t *testing.T, dir string, _ *Job) {
			write(t, filepath.Join(dir, "parent"+image.MergeEnding), []byte("lull-merge 1 00\n{}"))
		}, snapshot.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			dir, f := t.TempDir(), all[c.family]
			job := Job{Child: f.live(t, dir), Format: f.format}
			c.change(t, dir, &job)
			before, _ := os.ReadFile(filepath.Join(dir, "parent"))
			_, err := Run(t.Context(), job)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			after, _ := os.ReadFile(filepath.Join(dir, "parent"))
			if c.want != nil && !bytes.Equal(before, after) {
				t.Error("the parent was written to")
			}
		})
	}
}

// FuzzJournal reads journals that are all input.
func FuzzJournal(f *testing.F) {
	good, err := journal{Child: "c", Format: snapshot.FormatVHD, Size: 10, Patches: []layer.Patch{{Off: 1, Data: []byte("x")}}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(strings.Repeat("x", 100)))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := decode(b)
		if err != nil {
			return
		}
		again, err := j.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(again); err != nil {
			t.Fatal(err)
		}
	})
}
