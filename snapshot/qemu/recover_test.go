package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// run is a run of a test: a VM, and a plan that has been carried out in part.
type run struct {
	*testVM
	t    *testing.T
	ctx  context.Context
	host *Host
	plan snapshot.Plan
	want map[string][]byte
}

// taken is a run after Take, with a write of the guest in every delta.
func taken(t *testing.T, s shape) *run {
	t.Helper()
	r := prepared(t, s)
	r.take()
	for _, d := range r.plan.Disks {
		r.guestWrites(d.Name, 0, 0x55)
		r.guestWrites(d.Name, 2<<20, 0x56)
	}
	return r
}

func prepared(t *testing.T, s shape) *run {
	t.Helper()
	return newRun(t, s, func(*testVM) {})
}

func newRun(t *testing.T, s shape, setUp func(*testVM)) *run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	v := mountedVM(t, s, setUp)
	r := &run{testVM: v, t: t, ctx: ctx, host: v.host(), want: map[string][]byte{}}
	var err error
	if r.plan, err = r.host.Plan(ctx, "web", "run"); err != nil {
		t.Fatalf("Plan: %v", err)
	}
	for _, d := range r.plan.Disks {
		r.want[d.Name] = v.content(t, d.Name)
	}
	if err := r.host.Prepare(ctx, r.plan); err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	return r
}

func (r *run) take() {
	r.t.Helper()
	if err := r.host.Take(r.ctx, r.plan); err != nil {
		r.t.Fatalf("Take: %v", err)
	}
}

// guestWrites writes 1 MiB and notes it.
func (r *run) guestWrites(disk string, off int64, fill byte) {
	r.t.Helper()
	const length = 1 << 20
	if err := r.write(disk, off, length, fill); err != nil {
		r.t.Fatalf("write as the guest: %v", err)
	}
	copy(r.want[disk][off:], bytes.Repeat([]byte{fill}, length))
}

// die is the end of the process that ran the host.
func (r *run) die() {
	r.host.Close()
	r.host = r.testVM.host()
}

func (r *run) merge() error { return r.host.Merge(r.ctx, r.plan) }

// merged merges and fails unless everything is as it has to be then.
func (r *run) merged() {
	r.t.Helper()
	if err := r.merge(); err != nil {
		r.t.Fatalf("Merge: %v", err)
	}
	r.clean()
	if err := r.merge(); err != nil {
		r.t.Fatalf("Merge again: %v", err)
	}
	r.clean()
}

func (r *run) clean() {
	r.t.Helper()
	for _, d := range r.plan.Disks {
		if f := r.left(d); len(f) > 0 {
			r.t.Errorf("left behind: %v", f)
		}
		if _, err := os.Stat(d.Delta + stampSuffix); !errors.Is(err, os.ErrNotExist) {
			r.t.Errorf("the stamp is left behind: %v", err)
		}
		if got := r.content(r.t, d.Name); !bytes.Equal(got, r.want[d.Name]) {
			r.t.Errorf("disk %s does not hold what the guest wrote", d.Name)
		}
	}
}

// left lists the files of a delta that are there.
func (r *run) left(d snapshot.DiskPlan) []string {
	return slices.DeleteFunc([]string{d.Delta, d.Delta + mergedSuffix}, func(path string) bool {
		_, err := os.Stat(path)
		return errors.Is(err, os.ErrNotExist)
	})
}

func (r *run) wantErr(err, want error) {
	r.t.Helper()
	if !errors.Is(err, want) {
		r.t.Errorf("got %v, want %v", err, want)
	}
}

// startCommit starts the job that Merge would start, slowly if asked.
func (r *run) startCommit(speed int) {
	r.t.Helper()
	d := r.plan.Disks[0]
	if err := note(d, stampCommit); err != nil {
		r.t.Fatal(err)
	}
	r.ask("block-commit", args{"job-id": commitJob(d.DeltaNode), "device": d.DeltaNode, "base-node": d.Node,
		"auto-dismiss": false, "speed": speed}, nil)
}

func (r *run) awaitCommit(status string) {
	r.t.Helper()
	eventually(r.t, "commit job "+status, func() bool {
		var jobs []job
		r.ask("query-jobs", nil, &jobs)
		return slices.ContainsFunc(jobs, func(j job) bool { return j.Status == status })
	})
}

func qcow2VM() shape { return shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 2} }
func rawVM() shape   { return shape{format: snapshot.FormatRaw, bus: "virtio", disks: 1} }

// The process that merges dies after each step; the next one goes on.
func TestMergeContinues(t *testing.T) {
	t.Parallel()
	for name, until := range map[string]func(r *run){
		"commit running": func(r *run) { r.startCommit(2_000_000) },
		"commit ready":   func(r *run) { r.startCommit(0); r.awaitCommit("ready") },
		"marked": func(r *run) {
			r.startCommit(0)
			r.awaitCommit("ready")
			r.mark(0)
		},
		"pivoted": func(r *run) { r.pivotByHand() },
		"dismissed": func(r *run) {
			r.pivotByHand()
			r.ask("job-dismiss", args{"id": commitJob(r.plan.Disks[0].DeltaNode)}, nil)
		},
		"node closed": func(r *run) {
			r.pivotByHand()
			r.ask("job-dismiss", args{"id": commitJob(r.plan.Disks[0].DeltaNode)}, nil)
			r.ask("blockdev-del", args{"node-name": r.plan.Disks[0].DeltaNode}, nil)
		},
		"commit cancelled": func(r *run) { // by someone: the delta stays on the device
			r.startCommit(0)
			r.awaitCommit("ready")
			r.mark(0)
			r.ask("block-job-cancel", args{"device": commitJob(r.plan.Disks[0].DeltaNode)}, nil)
			r.awaitCommit("concluded")
			r.guestWrites(r.plan.Disks[0].Name, 1<<20, 0x77)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := taken(t, qcow2VM())
			until(r)
			r.die()
			r.merged()
		})
	}
}

func (r *run) mark(disk int) {
	r.t.Helper()
	if err := fileOf(r.plan.Disks[disk]).mark(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) pivotByHand() {
	r.t.Helper()
	r.startCommit(0)
	r.awaitCommit("ready")
	r.mark(0)
	r.ask("job-complete", args{"id": commitJob(r.plan.Disks[0].DeltaNode)}, nil)
	r.awaitCommit("concluded")
}

func TestKilledMidCommit(t *testing.T) {
	for _, s := range []shape{qcow2VM(), rawVM()} {
		t.Run(s.String(), func(t *testing.T) {
			r := taken(t, s)
			r.startCommit(100_000)
			r.kill()
			r.merged()
		})
	}
}

// QEMU was killed after the pivot: what the delta says the image says too.
func TestKilledAfterPivot(t *testing.T) {
	r := taken(t, rawVM())
	r.pivotByHand()
	r.kill()
	r.merged()
}

// QEMU was killed before the pivot, with the marker set and a write on its way:
// nothing can tell this from a delta that was left behind.
func TestKilledBetweenMarkAndPivot(t *testing.T) {
	r := taken(t, rawVM())
	r.kill()
	r.mark(0)
	err := r.merge()
	r.wantErr(err, snapshot.ErrUncertain)
	if left := r.left(r.plan.Disks[0]); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	r.finishByHand(err)
}

// finishByHand does what an error advises if the VM has not run since.
func (r *run) finishByHand(err error) {
	r.t.Helper()
	_, commands, _ := strings.Cut(r.hinted(err), "finish it: ")
	commands, _, _ = strings.Cut(commands, ";")
	shell(r.t, "sh", "-ec", commands)
	r.merged()
}

// hinted is what an error advises.
func (r *run) hinted(err error) string {
	r.t.Helper()
	var h interface{ Hint() string }
	if !errors.As(err, &h) || h.Hint() == "" {
		r.t.Fatalf("%v does not say what to do", err)
	}
	// Over an image that has changed a delta makes rubbish.
	if errors.Is(err, snapshot.ErrDiverged) && strings.Contains(h.Hint(), "qemu-img commit") {
		r.t.Errorf("it advises to commit over an image that may have changed: %s", h.Hint())
	}
	return h.Hint()
}

func TestRestartedOnBase(t *testing.T) {
	r := taken(t, qcow2VM())
	r.kill()
	r.start(r.disks)
	err := r.merge()
	r.wantErr(err, snapshot.ErrDiverged)
	r.hinted(err)
	for _, d := range r.plan.Disks {
		if len(r.left(d)) != 1 {
			t.Errorf("the delta of %s is gone", d.Name)
		}
	}
	_, err = r.host.Plan(r.ctx, "web", "next")
	r.wantErr(err, snapshot.ErrMergePending)
	r.kill() // as the hint says: nothing was written
	r.merged()
}

// The VM ran from its image after a crash, and is off again when lull comes back.
func TestRanOnBase(t *testing.T) {
	r := taken(t, qcow2VM())
	r.kill()
	r.start(r.disks)
	for _, d := range r.plan.Disks {
		if err := r.write(d.Name, 3<<20, 4096, 0x99); err != nil {
			t.Fatal(err)
		}
	}
	r.kill()
	err := r.merge()
	r.wantErr(err, snapshot.ErrDiverged)
	r.hinted(err)
	for _, d := range r.plan.Disks {
		if len(r.left(d)) != 1 {
			t.Errorf("the delta of %s is gone", d.Name)
		}
	}
}

// QEMU and lull ended in the middle of a commit. Whether the VM ran from its image
// since is told by who was written to last, or not at all.
func TestKilledMidCommitWithLull(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		later func(r *run) // what happens before lull is back
		want  error
	}{
		"image older than delta":   {later: func(r *run) { r.age(r.plan.Disks[0].Path, r.plan.Disks[0].Delta, -time.Second) }},
		"image of the delta's age": {later: func(r *run) { r.age(r.plan.Disks[0].Path, r.plan.Disks[0].Delta, 0) }},
		"image newer than delta": {
			later: func(r *run) { r.age(r.plan.Disks[0].Path, r.plan.Disks[0].Delta, time.Second) },
			want:  snapshot.ErrUncertain,
		},
		"the VM ran": {
			later: func(r *run) {
				r.start(r.disks)
				if err := r.write(r.plan.Disks[0].Name, 3<<20, 4096, 0x99); err != nil {
					r.t.Fatal(err)
				}
				r.kill()
			},
			want: snapshot.ErrUncertain,
		},
		"another image": {
			later: func(r *run) {
				path := r.plan.Disks[0].Path
				shell(r.t, "cp", "--preserve=all", path, path+".copy")
				shell(r.t, "mv", path+".copy", path)
			},
			want: snapshot.ErrDiverged,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := taken(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1})
			r.startCommit(100_000)
			r.die()
			r.kill()
			c.later(r)
			r.refusedOr(c.want)
		})
	}
}

// refusedOr merges: all is as it has to be then, or the merge is refused with words
// that help, the delta is there still, and its stamp.
func (r *run) refusedOr(want error) {
	r.t.Helper()
	if want == nil {
		r.merged()
		return
	}
	for range 2 { // asking again is no answer
		err := r.merge()
		r.wantErr(err, want)
		r.hinted(err)
	}
	for _, d := range r.plan.Disks {
		if len(r.left(d)) != 1 {
			r.t.Errorf("the delta of %s is gone", d.Name)
		}
	}
}

// age sets when a file was written to, after another.
func (r *run) age(path, other string, by time.Duration) {
	r.t.Helper()
	info, err := os.Stat(other)
	if err == nil {
		at := info.ModTime().Add(by)
		err = os.Chtimes(path, at, at)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// A hint's commands do what they say: the merge that was refused finds nothing to do.
func TestUncertainByHand(t *testing.T) {
	r := taken(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1})
	r.startCommit(100_000)
	r.die()
	r.kill()
	r.age(r.plan.Disks[0].Path, r.plan.Disks[0].Delta, time.Second)
	err := r.merge()
	r.wantErr(err, snapshot.ErrUncertain)
	r.finishByHand(err)
}

// An image to which all of a delta was committed before is as it should be, although
// nobody can tell who wrote to it last.
func TestCommittedBefore(t *testing.T) {
	r := taken(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1})
	r.startCommit(100_000)
	r.die()
	r.kill()
	shell(t, "qemu-img", "commit", "-q", "-d", "-f", "qcow2", r.plan.Disks[0].Delta)
	r.age(r.plan.Disks[0].Path, r.plan.Disks[0].Delta, time.Second)
	r.merged()
}

// lull ended between the transaction and the stamp, and QEMU too: nobody knows what
// the image was like. As long as either has been there all the time, all is known.
func TestNoStamp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		later func(r *run)
		want  error
	}{
		"both ended": {func(r *run) { r.die(); r.kill() }, snapshot.ErrUncertain},
		"QEMU ended": {(*run).kill, nil},
		"lull ended": {(*run).die, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := taken(t, qcow2VM())
			for _, d := range r.plan.Disks {
				if err := (stamp{state: stampNone}).write(d, false); err != nil {
					t.Fatal(err)
				}
			}
			c.later(r)
			r.refusedOr(c.want)
		})
	}
}

// The guard is there on a file system without extended attributes, too.
func TestRanOnBaseWithoutAttributes(t *testing.T) {
	r := newRun(t, rawVM(), func(v *testVM) { ramFS(t, v.dir+"/disks") })
	if err := unix.Setxattr(r.plan.Disks[0].Path, "user.lull", nil, 0); !errors.Is(err, unix.ENOTSUP) {
		t.Fatalf("the file system keeps attributes: %v", err)
	}
	r.take()
	r.guestWrites(r.plan.Disks[0].Name, 0, 0x55)
	r.kill()
	r.start(r.disks)
	if err := r.write(r.plan.Disks[0].Name, 3<<20, 4096, 0x99); err != nil {
		t.Fatal(err)
	}
	r.kill()
	r.refusedOr(snapshot.ErrDiverged)
}

func TestStampText(t *testing.T) {
	s := stamp{state: stampCommit, modified: time.Unix(1, 2), size: 3, inode: 1 << 63}
	text := s.String()
	if got, err := parseStamp(text); err != nil || got.state != s.state || !got.same(s) || len(text) != stampLength {
		t.Errorf("%q is read as %+v, %v", text, got, err)
	}
	for _, text := range []string{"", "\x00\x00", "frozen", "none 0 0 0\n", "frozen 1 2 -3\n", "thawed 1 2 3\n", "frozen 1 2 3 4\n"} {
		if s, err := parseStamp(text); !errors.Is(err, errNoStamp) {
			t.Errorf("%q is read as %+v, %v", text, s, err)
		}
	}
}

func TestRestartedOnBaseUntouched(t *testing.T) {
	t.Parallel()
	r := prepared(t, qcow2VM())
	r.take()
	r.kill()
	r.start(r.disks)
	r.merged()
}

func TestRestartedOnDelta(t *testing.T) {
	t.Parallel()
	for _, s := range []shape{qcow2VM(), {format: snapshot.FormatRaw, drive: true, bus: "scsi", disks: 2}} {
		t.Run(s.String(), func(t *testing.T) {
			r := taken(t, s)
			r.kill()
			var deltas []string
			for _, d := range r.plan.Disks {
				deltas = append(deltas, d.Delta)
			}
			r.startWith(r.arguments(deltas, snapshot.FormatQcow2))
			_, err := r.host.Plan(r.ctx, "web", "next")
			r.wantErr(err, snapshot.ErrMergePending)
			for _, d := range r.plan.Disks {
				r.guestWrites(d.Name, 1<<20, 0x88)
			}
			r.merged()
		})
	}
}

func TestGoneBeforeTake(t *testing.T) {
	t.Parallel()
	r := prepared(t, qcow2VM())
	r.kill()
	r.wantErr(r.host.Take(r.ctx, r.plan), snapshot.ErrGone)
	r.merged()
	r.start(r.disks)
	r.wantErr(r.host.Prepare(r.ctx, r.plan), snapshot.ErrGone)
	_, err := r.host.Open(r.ctx, r.plan)
	r.wantErr(err, snapshot.ErrGone)
	r.merged()
}

// The socket is gone but the VM runs: nothing may be touched.
func TestLostSocket(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]bool{"written": true, "untouched": false} {
		t.Run(name, func(t *testing.T) {
			r := prepared(t, qcow2VM())
			r.take()
			if write {
				r.guestWrites(r.plan.Disks[0].Name, 0, 0x55)
			}
			r.die()
			if err := os.Rename(r.dir+"/qmp", r.dir+"/elsewhere"); err != nil {
				t.Fatal(err)
			}
			err := r.merge()
			r.wantErr(err, snapshot.ErrBusy)
			r.hinted(err)
			if err := os.Rename(r.dir+"/elsewhere", r.dir+"/qmp"); err != nil {
				t.Fatal(err)
			}
			r.merged()
		})
	}
}

func TestNoQemuImg(t *testing.T) {
	r := taken(t, rawVM())
	r.kill()
	opt := r.options()
	opt.QemuImg = "no-such-program"
	err := NewHost([]VM{{Name: "web", QMP: r.dir + "/qmp"}}, opt).Merge(r.ctx, r.plan)
	if err == nil {
		t.Fatal("merged without qemu-img")
	}
	r.hinted(err)
	r.merged()
}

func TestPartialPrepare(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(r *run){
		"file only": func(r *run) {
			r.write0(r.plan.Disks[0].Delta, "")
		},
		"half a header": func(r *run) {
			r.write0(r.plan.Disks[0].Delta, "QFI\xfb\x00\x00")
		},
		"file node": func(r *run) {
			d := r.plan.Disks[0]
			r.write0(d.Delta, "")
			r.ask("blockdev-add", args{"driver": "file", "node-name": fileNode(d.DeltaNode), "filename": d.Delta}, nil)
		},
		"format job": func(r *run) {
			d := r.plan.Disks[0]
			r.write0(d.Delta, "")
			r.ask("blockdev-add", args{"driver": "file", "node-name": fileNode(d.DeltaNode), "filename": d.Delta}, nil)
			r.ask("blockdev-create", args{"job-id": createJob(d.DeltaNode),
				"options": args{"driver": "qcow2", "file": fileNode(d.DeltaNode), "size": 512}}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := prepared(t, qcow2VM())
			if err := r.merge(); err != nil {
				t.Fatal(err)
			}
			spoil(r)
			r.die()
			r.merged()
		})
	}
}

func (r *run) write0(path, content string) {
	r.t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}
