package qemu

import (
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// A guest that is told of a full delta as of a broken disk loses data from then on:
// the plan warns of that, and Watch ends the run at the first write.
func TestGuestHurt(t *testing.T) {
	for _, c := range []struct {
		shape  shape
		werror string
	}{
		{shape{format: snapshot.FormatRaw, bus: "virtio", disks: 1}, "report"},
		{shape{format: snapshot.FormatRaw, drive: true, bus: "virtio", disks: 1}, "ignore"},
	} {
		t.Run(c.werror, func(t *testing.T) {
			r := newRun(t, c.shape, func(v *testVM) {
				smallFS(t, v.dir+"/disks", "10m")
				v.boot, v.free, v.extra = writingGuest(), -1, ",werror="+c.werror
			})
			if w := r.plan.Warnings; len(w) != 1 || !strings.Contains(w[0], "werror="+c.werror) || !strings.Contains(w[0], r.plan.Disks[0].Name) {
				t.Errorf("warnings: %q", w)
			}
			r.take()
			f, err := r.host.Open(r.ctx, r.plan)
			if err != nil {
				t.Fatal(err)
			}
			fill(t, r.dir+"/disks")
			r.ask("cont", nil, nil)
			err = f.Watch(r.ctx)
			r.wantErr(err, snapshot.ErrNoSpace)
			r.hinted(err)
			if !strings.Contains(err.Error(), "werror="+c.werror) {
				t.Errorf("Watch: %v", err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What is no failed write to a delta is no reason to end a run.
func TestGuestUnhurt(t *testing.T) {
	deltas := map[string]string{"lull-d0": "disk0"}
	for _, data := range []string{
		`{"node-name":"lull-d0","operation":"read","action":"report"}`,
		`{"node-name":"lull-d0","operation":"write","action":"stop","nospace":true}`,
		`{"node-name":"other","operation":"write","action":"report"}`,
		`{"node-name":[]}`, ``,
	} {
		if err := guestHurt(&qmp.Event{Name: "BLOCK_IO_ERROR", Data: []byte(data)}, deltas); err != nil {
			t.Errorf("%s: %v", data, err)
		}
	}
	if err := guestHurt(nil, deltas); err != nil {
		t.Error(err)
	}
}
