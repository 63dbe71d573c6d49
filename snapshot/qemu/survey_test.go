package qemu

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// kinds are what a look at the VM finds, each kind once.
func (r *run) kinds(owned *snapshot.Plan) []snapshot.FindingKind {
	r.t.Helper()
	var list []snapshot.FindingKind
	for _, f := range r.compare(owned) {
		if f.Text == "" || f.Kind != snapshot.FindingAdded && f.Kind != snapshot.FindingRemoved && f.Next == "" {
			r.t.Errorf("says too little: %+v", f)
		}
		list = append(list, f.Kind)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// The states in which a run can be cut off: what is found with the journal's plan, what
// with a journal that has lost it, and how the merge ends.
func TestCompareStates(t *testing.T) {
	t.Parallel()
	const owed, half, refused, orphan, stray = snapshot.FindingOwed, snapshot.FindingHalf, snapshot.FindingRefused, snapshot.FindingOrphan, snapshot.FindingStray
	type kinds = []snapshot.FindingKind
	for name, c := range map[string]struct {
		state          func(r *run)
		owned, unowned kinds
		// gone: QEMU has ended, and without a plan nobody knows where to look.
		gone bool
		want error // of the merge
	}{
		"between two runs": {state: func(r *run) { must(r.t, r.merge()) }},
		"prepared":         {state: func(*run) {}, owned: kinds{owed}, unowned: kinds{orphan, stray}},
		"taken":            {state: frozenAndWritten, owned: kinds{owed}, unowned: kinds{orphan, stray}},
		"commit running": {
			state: func(r *run) { frozenAndWritten(r); r.startCommit(100_000) },
			owned: kinds{owed}, unowned: kinds{orphan, stray},
		},
		"pivoted": {
			state: func(r *run) { frozenAndWritten(r); r.pivotByHand() },
			owned: kinds{owed}, unowned: kinds{orphan, stray},
		},
		"QEMU was killed":                {state: func(r *run) { frozenAndWritten(r); r.kill() }, gone: true, owned: kinds{owed}},
		"QEMU was killed, all unwritten": {state: func(r *run) { r.take(); r.kill() }, gone: true, owned: kinds{owed}},
		"QEMU was killed in mid-commit": {
			state: func(r *run) {
				frozenAndWritten(r)
				r.startCommit(100_000)
				r.kill()
				r.age(r.plan.Disks[0].Path, r.plan.Disks[0].Delta, 0)
			},
			gone: true, owned: kinds{half, owed},
		},
		"QEMU was quit in mid-commit": {
			state: func(r *run) {
				frozenAndWritten(r)
				r.startCommit(100_000)
				r.quit()
				r.age(r.plan.Disks[0].Path, r.plan.Disks[0].Delta, 0)
			},
			gone: true, owned: kinds{half, owed},
		},
		"QEMU was killed after the pivot": {
			state: func(r *run) { frozenAndWritten(r); r.pivotByHand(); r.kill() },
			gone:  true, owned: kinds{owed},
		},
		"the VM runs from the delta": {
			state: func(r *run) {
				frozenAndWritten(r)
				r.kill()
				r.startWith(r.arguments([]string{r.plan.Disks[0].Delta, r.plan.Disks[1].Delta}, snapshot.FormatQcow2))
			},
			owned: kinds{owed}, unowned: kinds{orphan, stray},
		},
		"the VM runs from the image": {
			state: func(r *run) { frozenAndWritten(r); r.kill(); r.start(r.disks) },
			owned: kinds{refused}, unowned: kinds{orphan, stray}, want: snapshot.ErrDiverged,
		},
		"the VM ran from the image": {
			state: func(r *run) {
				frozenAndWritten(r)
				r.kill()
				r.start(r.disks)
				for _, d := range r.plan.Disks {
					must(r.t, r.write(d.Name, 3<<20, 4096, 0x99))
				}
				r.kill()
			},
			gone: true, owned: kinds{refused}, want: snapshot.ErrDiverged,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := prepared(t, qcow2VM())
			c.state(r)
			r.die()
			files := r.files(t)
			if got := r.kinds(&r.plan); !slices.Equal(got, c.owned) {
				t.Errorf("with the journal: %v, want %v", got, c.owned)
			}
			if !c.gone {
				if got := r.kinds(nil); !slices.Equal(got, c.unowned) {
					t.Errorf("without a journal: %v, want %v", got, c.unowned)
				}
			} else if _, err := r.host.Compare(r.ctx, "web", nil); !errors.Is(err, snapshot.ErrUnreachable) {
				t.Errorf("without a journal: %v", err)
			}
			if now := r.files(t); !slices.Equal(now, files) {
				t.Errorf("looking has changed files: %v, then %v", files, now)
			}
			r.refusedOr(c.want)
			if c.want == nil && !c.gone && len(r.kinds(nil)) > 0 {
				t.Errorf("after the merge: %+v", r.compare(nil))
			}
		})
	}
}

func frozenAndWritten(r *run) {
	r.take()
	for _, d := range r.plan.Disks {
		r.guestWrites(d.Name, 0, 0x55)
		r.guestWrites(d.Name, 2<<20, 0x56)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A delta that the VM writes to is merged although the journal is lost, whatever else the
// run left; one that was written to and left aside is not.
func TestAdopt(t *testing.T) {
	t.Parallel()
	for name, state := range map[string]func(r *run){
		"taken":          func(*run) {},
		"commit running": func(r *run) { r.startCommit(100_000) },
		"restarted on the deltas": func(r *run) {
			r.kill()
			r.startWith(r.arguments([]string{r.plan.Disks[0].Delta, r.plan.Disks[1].Delta}, snapshot.FormatQcow2))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := prepared(t, qcow2VM())
			frozenAndWritten(r)
			state(r)
			r.die()
			for range r.plan.Disks {
				adopted := false
				for _, f := range r.compare(nil) {
					if f.Adopt != nil && !adopted {
						adopted = true
						must(t, r.host.Merge(r.ctx, *f.Adopt))
					}
				}
			}
			for _, f := range r.compare(nil) {
				if f.Kind != snapshot.FindingStray {
					t.Errorf("left: %+v", f)
				}
				r.byHand(f)
			}
			r.clean()
			if list := r.compare(nil); len(list) > 0 {
				t.Errorf("left: %+v", list)
			}
		})
	}
}

// byHand does what a finding advises.
func (r *run) byHand(f snapshot.Finding) {
	r.t.Helper()
	if line, ok := strings.CutPrefix(f.Next, "send to its monitor: "); ok {
		r.sendLine(line)
		return
	}
	if !strings.HasPrefix(f.Next, "rm ") {
		r.t.Errorf("advises %q", f.Next)
		return
	}
	shell(r.t, "sh", "-ec", f.Next)
}

// The commands of a refusal lead out of it: nothing is left that keeps lull from backing
// the VM up.
func TestOrphanByHand(t *testing.T) {
	t.Parallel()
	r := prepared(t, qcow2VM())
	frozenAndWritten(r)
	r.kill()
	r.start(r.disks)
	r.die()
	_, err := r.host.Plan(r.ctx, "web", "next")
	r.wantErr(err, snapshot.ErrMergePending)
	for _, f := range r.compare(nil) {
		if f.Kind == snapshot.FindingOrphan {
			_, command, _ := strings.Cut(f.Next, ", ")
			f.Next, _, _ = strings.Cut(command, ";")
		}
		r.byHand(f)
	}
	if list := r.compare(nil); len(list) > 0 {
		t.Errorf("left: %+v", list)
	}
	if _, err := r.host.Plan(r.ctx, "web", "next"); err != nil {
		t.Error(err)
	}
}

// Whoever is served the frozen image by QEMU keeps it from changing under him, which QEMU
// itself does not.
func TestServedToAnother(t *testing.T) {
	t.Parallel()
	r := taken(t, qcow2VM())
	r.ask("nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": r.dir + "/foreign"}}}, nil)
	r.ask("block-export-add", args{"type": "nbd", "id": "theirs", "node-name": r.plan.Disks[0].Node, "name": "theirs"}, nil)
	before := r.frozenFile()
	for range 2 {
		err := r.merge()
		r.wantErr(err, snapshot.ErrBusy)
		r.hinted(err)
	}
	if r.frozenFile() != before {
		t.Error("the image changed under its reader")
	}
	_, line, _ := strings.Cut(r.hinted(r.merge()), "or send ")
	line, _, _ = strings.Cut(line, " to the monitor")
	r.sendLine(line)
	eventually(t, "the end of the export", func() bool {
		var list []export
		r.ask("query-block-exports", nil, &list)
		return len(list) == 0
	})
	r.merged()
}

// frozenFile is the content of the first image, as a string to be compared.
func (r *run) frozenFile() string {
	r.t.Helper()
	b, err := os.ReadFile(r.plan.Disks[0].Path)
	must(r.t, err)
	return string(b)
}

// QEMU was quit in the middle of a commit, and lull had died before. Nothing on the image
// says that it is half merged; the stamp beside the delta does. It is merged where the
// files tell that nobody else wrote to it, and refused else.
func TestQuitMidCommitWithLull(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]shape{
		"qcow2": {format: snapshot.FormatQcow2, bus: "virtio", disks: 1}, "raw": rawVM(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := taken(t, s)
			r.startCommit(200_000)
			eventually(t, "half of the commit", func() bool {
				var jobs []job
				r.ask("query-jobs", nil, &jobs)
				return len(jobs) == 1 && jobs[0].Current > 0
			})
			r.die()
			r.quit()
			kinds := r.kinds(&r.plan)
			if !slices.Equal(kinds, []snapshot.FindingKind{snapshot.FindingHalf}) && !slices.Equal(kinds, []snapshot.FindingKind{snapshot.FindingRefused}) {
				t.Errorf("found: %v", kinds)
			}
			if err := r.merge(); err != nil {
				r.wantErr(err, snapshot.ErrUncertain)
				r.finishByHand(err)
				return
			}
			r.merged()
		})
	}
}

// A file of lull's beside a disk that is no delta is in nobody's way.
func TestStrayFiles(t *testing.T) {
	t.Parallel()
	v := newVM(t, qcow2VM())
	r := &run{testVM: v, t: t, ctx: t.Context(), host: v.host()}
	stem := v.disks[0] + ".lull-20260101T000000Z-01234567.delta"
	for _, ending := range []string{stampSuffix, mapSuffix, anchorSuffix} {
		must(t, os.WriteFile(stem+ending, nil, 0o600))
	}
	must(t, os.WriteFile(filepath.Join(v.dir, "disks", "unrelated.lull-x.delta.stamp"), nil, 0o600))
	must(t, os.WriteFile(v.disks[0]+".lull-01234567.place", nil, 0o600)) // of a checkpoint
	list := r.compare(nil)
	if len(list) != 3 {
		t.Errorf("found: %+v", list)
	}
	if _, err := r.host.Plan(r.ctx, "web", "next"); err != nil {
		t.Errorf("strays keep a backup from being made: %v", err)
	}
	for _, f := range list {
		r.byHand(f)
	}
	if list := r.compare(nil); len(list) > 0 {
		t.Errorf("left: %+v", list)
	}
}

// sendLine sends a line of JSON as an administrator would.
func (v *testVM) sendLine(line string) {
	v.t.Helper()
	var c struct {
		Execute   string         `json:"execute"`
		Arguments map[string]any `json:"arguments"`
	}
	if err := json.Unmarshal([]byte(line), &c); err != nil {
		v.t.Fatalf("%s: %v", line, err)
	}
	v.ask(c.Execute, c.Arguments, nil)
}
