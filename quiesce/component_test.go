package quiesce_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

func TestFind(t *testing.T) {
	const gib = 1 << 30
	system := quiesce.Disk{Name: "system", Size: 10 * gib, Address: "0000:00:04.0"}
	data := quiesce.Disk{Name: "data", Size: 20 * gib, Serial: "data-1"}
	out := func(d quiesce.Disk) quiesce.Disk { d.LeftOut = "driver x is not supported"; return d }
	long := quiesce.Disk{Name: "long", Serial: "0123456789abcdef0123456789", LeftOut: "gone"}
	for name, test := range map[string]struct {
		disks []quiesce.Disk
		seen  quiesce.Disk
		want  string // a name; or what an error says
		out   bool
	}{
		"nothing is known":                {nil, quiesce.Disk{Size: gib}, "", false},
		"by its size":                     {[]quiesce.Disk{system, data}, quiesce.Disk{Size: 20 * gib}, "data", false},
		"by its serial":                   {[]quiesce.Disk{system, data}, quiesce.Disk{Serial: " data-1 "}, "data", false},
		"several fit, all are in":         {[]quiesce.Disk{system, data}, quiesce.Disk{}, "", false},
		"unknown, all are in":             {[]quiesce.Disk{system, data}, quiesce.Disk{Size: gib}, "", false},
		"it is the one that is left out":  {[]quiesce.Disk{system, out(data)}, quiesce.Disk{Size: 20 * gib, Serial: "data-1"}, "lacks the disk data: driver x", true},
		"it is the other, by its address": {[]quiesce.Disk{system, out(data)}, quiesce.Disk{Size: 10 * gib, Address: "0000:00:04.0"}, "system", false},
		"other size, other serial":        {[]quiesce.Disk{system, out(data)}, quiesce.Disk{Size: 10 * gib, Serial: "x"}, "system", false},
		"it may be either":                {[]quiesce.Disk{{Name: "a", Size: gib}, {Name: "b", Size: gib, LeftOut: "x"}}, quiesce.Disk{Size: gib}, "cannot tell it from b", true},
		"a serial is enough":              {[]quiesce.Disk{{Name: "a", Serial: "a"}, {Name: "x", LeftOut: "another process serves it"}}, quiesce.Disk{Size: gib, Serial: "a"}, "a", false},
		"a serial tells":                  {[]quiesce.Disk{{Name: "a", Size: gib}, {Name: "b", Size: gib, Serial: "b", LeftOut: "x"}}, quiesce.Disk{Size: gib, Serial: "a"}, "a", false},
		"nothing is known of one":         {[]quiesce.Disk{system, {Name: "x", LeftOut: "another process serves it"}}, quiesce.Disk{Size: 10 * gib}, "cannot tell it from x", true},
		"the host names none like it":     {[]quiesce.Disk{system, out(data)}, quiesce.Disk{Size: gib}, "names none like it", true},
		"a serial that was cut":           {[]quiesce.Disk{system, long}, quiesce.Disk{Size: gib, Serial: "0123456789abcdef0123"}, "lacks the disk long", true},
		"a serial with blanks":            {[]quiesce.Disk{system, {Name: "b", Serial: "W D 1", LeftOut: "x"}}, quiesce.Disk{Size: gib, Serial: "WD1"}, "lacks the disk b", true},
		"a serial that begins alike":      {[]quiesce.Disk{{Name: "a", Serial: "disk1"}, {Name: "b", Serial: "disk10", LeftOut: "x"}}, quiesce.Disk{Serial: "disk1"}, "a", false},
		"half a sector":                   {[]quiesce.Disk{{Name: "a", Size: gib - 100}, {Name: "b", Size: 1, LeftOut: "x"}}, quiesce.Disk{Size: gib}, "a", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := quiesce.Find(test.disks, test.seen)
			switch {
			case test.out && (!errors.Is(err, quiesce.ErrLeftOut) || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%q, %v; want an error that says %q", got, err, test.want)
			case !test.out && (err != nil || got != test.want):
				t.Errorf("%q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func components() []quiesce.Component {
	return []quiesce.Component{{Name: "/srv/a", Files: []string{"/srv/a", "/wal"}, Disks: []string{"data"}}, {Name: "/srv/b"}}
}

// The writers that took part hear what became of their components, and so does the report.
func TestOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.job.Disks = []quiesce.Disk{{Name: "data", Size: 1 << 30}}
		s.app.Components = components()
		held := s.wantLevel(t, quiesce.LevelApplication)
		if err := held.Complete(t.Context(), "point-1"); err != nil {
			t.Fatal(err)
		}
		app := []quiesce.Outcome{
			{Writer: "db", Component: components()[0], Succeeded: true, Level: quiesce.LevelApplication},
			{Writer: "db", Component: components()[1], Succeeded: true, Level: quiesce.LevelApplication},
		}
		fs := quiesce.Outcome{Writer: "filesystem", Succeeded: true, Level: quiesce.LevelFilesystem}
		if diff := cmp.Diff(append([]quiesce.Outcome{fs}, app...), held.Report().Components); diff != "" {
			t.Errorf("components of the report (-want +got):\n%s", diff)
		}
		want := quiesce.CompleteRequest{Request: quiesce.Request{Run: "run-1", VM: "vm"}, Point: "point-1", Level: quiesce.LevelApplication, Outcomes: app}
		if diff := cmp.Diff(want, s.app.Completed()); diff != "" {
			t.Errorf("complete (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(s.job.Disks, s.app.Prepared().Disks); diff != "" {
			t.Errorf("prepare was told of other disks (-want +got):\n%s", diff)
		}
	})
}

// Components that were not held say so, and why; those that hear of the point do not speak
// for them.
func TestOutcomesOfFailures(t *testing.T) {
	veto := &quiesce.Failure{Class: quiesce.Vetoed, Err: errors.New("a long transaction")}
	for name, test := range map[string]struct {
		spoil  func(*scene)
		reason string
	}{
		"prepare": {func(s *scene) { s.app.On(quiescetest.Prepare, quiescetest.Act{Err: veto}) }, "a long transaction"},
		"freeze":  {func(s *scene) { s.app.On(quiescetest.Freeze, quiescetest.Act{Err: veto}) }, "a long transaction"},
		"thaw":    {func(s *scene) { s.app.On(quiescetest.Thaw, quiescetest.Act{Err: veto}) }, "a long transaction"},
		"lost":    {func(s *scene) { s.app.On(quiescetest.Freeze, quiescetest.Act{Lie: true}) }, "had not held"},
		"another": {func(s *scene) {
			other := quiescetest.App("other").On(quiescetest.Prepare, quiescetest.Act{Err: veto})
			s.job.Writers = append(s.job.Writers, other)
		}, "writer other: vetoed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene()
				s.app.Components = []quiesce.Component{{Name: "/srv/a"}}
				test.spoil(s)
				held, err := s.do(t)
				if err != nil {
					t.Fatal(err)
				}
				if err := held.Complete(t.Context(), "point-1"); err != nil {
					t.Fatal(err)
				}
				all := held.Report().Components
				i := slices.IndexFunc(all, func(o quiesce.Outcome) bool { return o.Writer == "db" })
				if i < 0 || all[i].Succeeded || all[i].Level != quiesce.LevelFilesystem || !strings.Contains(all[i].Reason, test.reason) {
					t.Errorf("%+v, want a failure of db with %q", all, test.reason)
				}
				if fs := s.fs.Completed().Outcomes; len(fs) != 1 || fs[0].Writer != "filesystem" || !fs[0].Succeeded {
					t.Errorf("the file systems heard of %+v", fs)
				}
			})
		})
	}
}

// A writer that says itself that a component is on a disk which the point will not have is
// not believed that it can be held.
func TestComponentOnLeftOutDisk(t *testing.T) {
	for disk, says := range map[string]string{"data": "lacks the disk data: not supported", "none": "which the VM has not"} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene()
			s.job.Disks = []quiesce.Disk{{Name: "system"}, {Name: "data", LeftOut: "not supported"}}
			s.app.Components = []quiesce.Component{{Name: "/srv/a", Disks: []string{"system", disk}}}
			held := s.wantLevel(t, quiesce.LevelFilesystem, says)
			if err := held.Abort(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestTooManyComponents(t *testing.T) {
	var many []quiesce.Component
	for i := range 1025 {
		many = append(many, quiesce.Component{Name: fmt.Sprint(i)})
	}
	for name, all := range map[string][]quiesce.Component{"many": many, "large": {{Name: "a", Files: []string{strings.Repeat("x", 1<<20)}}}} {
		if err := quiesce.CheckComponents(all, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		if len(all) == 1025 {
			continue
		}
		id := quiescetest.App("db").ID
		id.Components = []string{all[0].Files[0]}
		if err := id.Check(); err == nil {
			t.Errorf("%s: an identity with them passes", name)
		}
	}
}
