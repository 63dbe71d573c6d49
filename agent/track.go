package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/repo"
)

// Tracking is how far runs rely on what a host knows of the changes on disks. The
// zero value: wherever it knows them.
type Tracking struct {
	Off bool // all is read, and no changes are recorded
	// Audit reads all in this run, and compares it with what the host says.
	Audit bool
	// Every is how long disks go at most without being read whole: a run after that
	// is an audit. 0: for ever.
	Every time.Duration
}

// ErrUntrue: a disk changed where the host said that it had not.
var ErrUntrue = errors.New("changes were not tracked")

// settleTimeout bounds how long records are removed.
const settleTimeout = time.Minute

// track names the records of changes in the plan. That there are none is no error: all
// is read then.
func (b *backup) track(ctx context.Context) error {
	host, ok := b.job.Host.(snapshot.Tracker)
	if !ok {
		return nil
	}
	since := map[string]string{}
	for _, d := range b.parent().Disks {
		since[d.Name] = d.Tracking.Record
	}
	series := b.job.Repository.ID().String() + "\x00" + b.job.Name
	p, err := host.Track(ctx, b.plan, series, since)
	if ctx.Err() != nil {
		return err
	}
	if err != nil {
		b.warn(fmt.Sprintf("all disks are read in full: %v", err))
		return nil
	}
	if b.job.Tracking.Off {
		for i := range p.Disks { // what earlier runs recorded is removed by the stem
			p.Disks[i].Track = snapshot.TrackPlan{Stem: p.Disks[i].Track.Stem}
		}
	}
	b.plan = p
	return nil
}

// changes is what the host knows of a disk, as far as it speaks of the restore point
// on which this one is built.
func (b *backup) changes(ctx context.Context, d snapshot.Disk, before *repo.Disk) (snapshot.Changes, error) {
	frozen, ok := b.frozen.(snapshot.FrozenChanges)
	switch {
	case b.job.Tracking.Off:
		return snapshot.Changes{Reason: "tracking is off"}, nil
	case !ok:
		return snapshot.Changes{}, nil
	}
	c, err := frozen.Changes(ctx, d.Name)
	if err != nil {
		return c, err
	}
	i := slices.IndexFunc(b.plan.Disks, func(p snapshot.DiskPlan) bool { return p.Name == d.Name })
	switch since := b.plan.Disks[i].Track.Since; {
	case before == nil && len(b.parent().Disks) == 0:
		c.Since, c.Reason = nil, "it is the first restore point"
	case !b.ownParent():
		// Who can put a point of this VM into the repository could make it say that
		// anything is unchanged.
		c.Since, c.Reason = nil, "the restore point before was made with another key"
	case before == nil:
		c.Since, c.Reason = nil, "it is new, or of another size than in the restore point before"
	case c.Since != nil && (since == "" || since != before.Tracking.Record):
		// A reading that starts over may build on another point than was planned.
		c.Since, c.Reason = nil, "the record is not of the restore point before"
	case c.Since == nil && c.Reason == "" && before.Tracking.Record == "":
		c.Reason = "nothing recorded what changed since the restore point before"
	}
	return c, nil
}

// audits tells whether a disk is to be read whole to prove its record.
func (b *backup) audits(before *repo.Disk) bool {
	t := b.job.Tracking
	if before == nil {
		return t.Audit
	}
	due := t.Every > 0 && b.result.Started.Sub(before.Tracking.Whole) >= t.Every
	return t.Audit || due || doubted(before.Tracking)
}

// doubted tells whether a record of the disk was untrue, and none was proven since.
func doubted(t repo.Tracking) bool { return t.Doubted || t.Untrue > 0 }

// tracking is what the point says of it, and takes note of records that lie.
func (b *backup) tracking(c snapshot.Changes, before *repo.Disk, stored transport.Stored, audit bool) repo.Tracking {
	t := repo.Tracking{Record: c.Record, Reason: c.Reason, Untrue: stored.Untrue, Whole: b.instant.UTC()}
	t.Doubted = before != nil && doubted(before.Tracking)
	if c.Since == nil {
		return t
	}
	t.Changed = c.Since.Bytes()
	switch {
	case !stored.Inherited:
		t.Reason, t.Changed = "the restore point before cannot be built upon: it is damaged, being maintained, from before a key was removed, or its maps are not here", 0
	case stored.Untrue > 0:
		t.Reason = fmt.Sprintf("the record was untrue: %s changed unseen, from %s on",
			humanize.IBytes(uint64(stored.Untrue)), humanize.IBytes(uint64(stored.UntrueAt)))
		t.Record, t.Doubted = "", true // who lied once is not believed again
	case audit:
		t.Reason, t.Doubted = "an audit, and the record is true", false
	default:
		t.Used, t.Whole = true, before.Tracking.Whole
	}
	return t
}

// tracked says in a line what was read of the disks, and why.
func tracked(p repo.Point) string {
	var changed, kept int64
	var used, full []string
	for _, d := range p.Disks {
		switch t := d.Tracking; {
		case t.Used:
			used = append(used, d.Name)
			changed, kept = changed+t.Changed, kept+d.Size
		case t.Reason != "":
			full = append(full, fmt.Sprintf("%s was read in full: %s", d.Name, t.Reason))
		}
	}
	if len(used) > 0 {
		full = append([]string{fmt.Sprintf("%s of %s changed on %s", humanize.IBytes(uint64(changed)),
			humanize.IBytes(uint64(kept)), strings.Join(used, ", "))}, full...)
	}
	return strings.Join(full, "; ")
}

// settle removes the records that nobody needs any more. What stays is removed by the
// next run.
func (b *backup) settle(ctx context.Context, merged bool) {
	host, ok := b.job.Host.(snapshot.Tracker)
	if !ok || !merged {
		return
	}
	keep := map[string]string{}
	for _, d := range b.plan.Disks {
		keep[d.Name] = d.Track.Since
	}
	for _, d := range b.result.Point.Disks { // the point is there
		keep[d.Name] = d.Tracking.Record
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := host.Settle(ctx, b.plan, keep); err != nil && !errors.Is(err, snapshot.ErrGone) {
		b.Log.Warn("records of changes are left", "vm", b.job.Name, "run", b.run, "error", err)
	}
}

// proven is the end of a run whose point is there: an audit that found a record untrue
// has failed, and one that was found so by chance is a warning. What both mean for the
// points before is the same.
func (b *backup) proven() error {
	var errs []error
	for _, d := range b.result.Point.Disks {
		if d.Tracking.Untrue == 0 {
			continue
		}
		advice := fmt.Sprintf("restore point %s is right, but those between it and the last whole reading may lack changes: "+
			"do not rely on them; find out what writes to %s past QEMU; the record is dropped, and the next one is audited", b.result.Point.ID, cmp.Or(d.Path, d.Name))
		if !b.audits(diskOf(b.parent(), d.Disk)) {
			b.warn(fmt.Sprintf("disk %s: %s; %s", d.Name, d.Tracking.Reason, advice))
			continue
		}
		err := fmt.Errorf("audit disk %s: %w: %s", d.Name, ErrUntrue, d.Tracking.Reason)
		errs = append(errs, snapshot.WithHint(err, advice))
	}
	return errors.Join(errs...)
}
