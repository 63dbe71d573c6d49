package quiescetest

import (
	"context"

	"github.com/lull-backup/lull/quiesce"
)

// Disks are those of a VM of which the restore point will lack nothing.
func Disks() []quiesce.Disk {
	return []quiesce.Disk{{Name: "disk0", Size: 10 << 30, Serial: "kit-0"}, {Name: "disk1", Size: 20 << 30, Address: "0000:00:05.0"}}
}

// PrepareOnly prepares a writer that is told of no disk.
func PrepareOnly(ctx context.Context, w quiesce.Writer, r quiesce.Request) error {
	_, err := w.Prepare(ctx, quiesce.PrepareRequest{Request: r})
	return err
}

// CompleteWith tells a writer of a restore point in which its components succeeded.
func CompleteWith(ctx context.Context, w quiesce.Writer, r quiesce.Request, found []quiesce.Component) error {
	c := quiesce.CompleteRequest{Request: r, Point: "20261122T041121Z-9f86d081", Level: quiesce.LevelApplication}
	for _, f := range found {
		c.Outcomes = append(c.Outcomes, quiesce.Outcome{Component: f, Succeeded: true, Level: quiesce.LevelApplication})
	}
	return w.Complete(ctx, c)
}

// CompleteLost tells it of one in which none did.
func CompleteLost(ctx context.Context, w quiesce.Writer, r quiesce.Request, found []quiesce.Component) error {
	c := quiesce.CompleteRequest{Request: r, Point: "20261122T041121Z-9f86d081", Level: quiesce.LevelCrash}
	for _, f := range found {
		c.Outcomes = append(c.Outcomes, quiesce.Outcome{Component: f, Level: quiesce.LevelCrash, Reason: "it was not held"})
	}
	return w.Complete(ctx, c)
}
