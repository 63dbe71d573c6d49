package agent_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// planned is a host that sees more of the VM than the fake one has.
type planned struct {
	snapshot.Host
	change func(*snapshot.Plan)
}

func (p planned) Plan(ctx context.Context, vm, run string) (snapshot.Plan, error) {
	plan, err := p.Host.Plan(ctx, vm, run)
	p.change(&plan)
	return plan, err
}

// Writers hear which disks of the guest the point will not have, and the point what became
// of their components.
func TestWritersKnowTheDisks(t *testing.T) {
	w := newWorld(t)
	job := w.job()
	job.Host = planned{job.Host, func(p *snapshot.Plan) {
		p.Hardware.Devices = []snapshot.Device{
			{Driver: "virtio-blk-pci", ID: "d0", Disk: "root", Serial: "r-1", Address: "0000:00:04.0"},
			{Driver: "vhost-user-blk-pci", ID: "spdk", Address: "0000:00:05.0"}, {Driver: "ide-cd", ID: "cd", Disk: "cd"},
			{Driver: "usb-storage", ID: "stick", Disk: "stick", Serial: "s"},
		}
		p.Excluded = []snapshot.Excluded{
			{Disk: snapshot.Disk{Name: "spdk"}, Reason: "another process serves it"},
			{Disk: snapshot.Disk{Name: "cd"}, Reason: "empty drive", Expected: true},
			{Disk: snapshot.Disk{Name: "stick", Size: 4 << 20}, Reason: "removable medium", Expected: true},
			{Disk: snapshot.Disk{Name: "loose", Size: 4 << 20}, Reason: "drive without a device", Expected: true},
		}
	}}
	app := quiescetest.App("db")
	app.Components = []quiesce.Component{{Name: "/srv/db", Files: []string{"/srv/db"}, Disks: []string{"root"}}}
	job.Policy = quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelApplication}, Floor: quiesce.LevelApplication}
	job.Writers = func(context.Context, snapshot.Guest) ([]quiesce.Writer, func() error, error) {
		return []quiesce.Writer{app}, func() error { return nil }, nil
	}
	res, err := w.runner.Backup(t.Context(), job)
	must(t, err)
	disks := []quiesce.Disk{
		{Name: "data", Size: 5 << 20}, {Name: "root", Size: 9 << 20, Serial: "r-1", Address: "0000:00:04.0"},
		{Name: "spdk", Address: "0000:00:05.0", LeftOut: "another process serves it"},
		{Name: "stick", Size: 4 << 20, Serial: "s", LeftOut: "removable medium"},
	}
	byName := cmp.Transformer("byName", func(all []quiesce.Disk) map[string]quiesce.Disk {
		m := map[string]quiesce.Disk{}
		for _, d := range all {
			m[d.Name] = d
		}
		return m
	})
	if diff := cmp.Diff(disks, app.Prepared().Disks, byName); diff != "" {
		t.Errorf("prepare was told of other disks (-want +got):\n%s", diff)
	}
	want := []quiesce.Outcome{{Writer: "db", Component: app.Components[0], Succeeded: true, Level: quiesce.LevelApplication}}
	points, err := w.repo.Points(t.Context(), vmName)
	must(t, err)
	if diff := cmp.Diff(want, points[0].Quiesce.Components); diff != "" {
		t.Errorf("components of the stored point (-want +got):\n%s", diff)
	}
	if c := app.Completed(); c.Point != res.Point.ID || cmp.Diff(want, c.Outcomes) != "" {
		t.Errorf("complete was told %+v", c)
	}
	w.tidy()
}
