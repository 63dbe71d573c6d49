package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// What changes on a disk is recorded in a dirty bitmap of the image's node. Take adds
// a new one in its transaction; the merge of the delta dirties it, so that afterwards
// it holds exactly what changed since. The bitmap of the point before stays enabled
// beside it until the new point is there: nothing is ever cleared, disabled or merged,
// so a run that fails at any moment leaves a bitmap that is still true.
//
// A bitmap is named lull-SERIES-IMAGES-RUN: a hash of the series of points and the
// disk's name; one of the images (see imagesOf); and the run. It is trusted when the
// restore point before says that very name, and the first two are those of the disk as
// it is now. In a qcow2 image of version 3 it is persistent: it is kept with the
// content that it tells of, every program that writes to the image keeps it true or
// makes it invalid, and a QEMU that crashed leaves it marked inconsistent. Elsewhere
// it lives as long as the QEMU process.

var _ snapshot.Tracker = (*Host)(nil)

// minGrain is what bitmaps tell apart, in bytes: QEMU's own default. maxBits is how
// many parts a bitmap has at most; above that the grain grows, as the bitmap is written
// to the image while the guest waits.
const (
	minGrain = 64 << 10
	maxBits  = 64 << 20
)

// maxAge is how old the record of another series may become.
const maxAge = 400 * 24 * time.Hour

// Track asks QEMU what records there are.
func (h *Host) Track(ctx context.Context, p snapshot.Plan, series string, since map[string]string) (snapshot.Plan, error) {
	p.Disks = slices.Clone(p.Disks)
	err := h.during(ctx, p, func(m *monitor) error {
		drives, err := m.drives(ctx)
		if err != nil {
			return err
		}
		for i, d := range p.Disks {
			in, err := asPlanned(drives, d)
			if err != nil {
				return err
			}
			p.Disks[i].Track = trackPlan(p, d, in, recordStem(series, d.Name))
			if name := since[d.Name]; name != "" && p.Disks[i].Track.Record != "" {
				trust(&p.Disks[i].Track, name, in)
			}
		}
		return nil
	})
	if err != nil {
		return p, fmt.Errorf("track changes of %s: %w", p.VM, err)
	}
	return p, nil
}

// recordStem begins the names of a disk's records in a series.
func recordStem(series, disk string) string {
	sum := sha256.Sum256([]byte(series + "\x00" + disk))
	return nodePrefix + hex.EncodeToString(sum[:8]) + "-"
}

func trackPlan(p snapshot.Plan, d snapshot.DiskPlan, in *inserted, stem string) snapshot.TrackPlan {
	if in.Image.Specific.Data.DataFile != "" {
		return snapshot.TrackPlan{Reason: "its content is in a data file of its own, which other programs can write to"}
	}
	t := snapshot.TrackPlan{
		Stem: stem, Grain: minGrain,
		Persistent: in.Driver == "qcow2" && in.Image.Specific.Data.Compat != "0.10",
	}
	for d.Size/t.Grain >= maxBits {
		t.Grain *= 2
	}
	if (d.Export == "" || d.Local) && !t.Persistent {
		t.Map = d.Delta + mapSuffix
	}
	t.Record = stem + imagesOf(d.Chain, p.Instance) + "-" + p.Run
	return t
}

// imagesOf is what a disk's images are known by: that the record in the image tells
// the truth of what the guest sees depends on the images below it staying as they are.
// An image that cannot be told from another by its file is only itself as long as the
// process has it open.
func imagesOf(chain []snapshot.Layer, instance string) string {
	sum := sha256.New()
	for i, l := range chain {
		var is *syscall.Stat_t
		info, err := os.Stat(l.Path)
		if err == nil && info.Mode().IsRegular() {
			is, _ = info.Sys().(*syscall.Stat_t) // nil where it is not known
		}
		switch {
		case is == nil && i == 0:
			fmt.Fprintf(sum, "%q %s\n", l.Path, l.Format)
		case is == nil:
			fmt.Fprintf(sum, "%q %s %s\n", l.Path, l.Format, instance)
		case i == 0: // the guest writes to it
			fmt.Fprintf(sum, "%d %s\n", is.Ino, l.Format)
		default:
			fmt.Fprintf(sum, "%d %s %d %d\n", is.Ino, l.Format, info.Size(), info.ModTime().UnixNano())
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// trust makes a record the one that changes are read from, or says why not.
func trust(t *snapshot.TrackPlan, name string, in *inserted) {
	images, _, _ := strings.Cut(strings.TrimPrefix(t.Record, t.Stem), "-")
	switch {
	case !strings.HasPrefix(name, t.Stem):
		t.Reason = "the last restore point's record is of another disk or repository"
	case !strings.HasPrefix(name, t.Stem+images+"-"):
		t.Reason = "the image was replaced, or one below it was replaced or written to"
	default:
		t.Reason = untrue(findBitmap(in, name), *t)
	}
	if t.Reason == "" {
		t.Since = name
	}
}

// untrue says why a bitmap is no record to rely on, or nothing.
func untrue(b *bitmap, t snapshot.TrackPlan) string {
	switch {
	case b == nil && t.Persistent:
		return "the image has lost the record: QEMU drops it when another program has written to the image"
	case b == nil:
		return "QEMU was started anew since, and the image's format cannot keep the record"
	case b.Inconsistent:
		return "QEMU or the machine crashed, and the record may lack the last changes"
	case !b.Recording:
		return "someone has disabled the record"
	case b.Granularity != t.Grain || b.Persistent != t.Persistent:
		return "the record is not as lull makes it"
	}
	return ""
}

func findBitmap(in *inserted, name string) *bitmap {
	for i := range in.Bitmaps {
		if in.Bitmaps[i].Name == name {
			return &in.Bitmaps[i]
		}
	}
	return nil
}

// tidy removes records of the plan's series that nobody needs, as an earlier run could
// not, and forgotten ones. What QEMU refuses is left to the next.
func (h *Host) tidy(ctx context.Context, m *monitor, run string, d snapshot.DiskPlan, in *inserted) error {
	err := m.removeRecords(ctx, in, func(name string) bool {
		return inSeries(d.Track, name) && name != d.Track.Since || forgotten(name, run)
	})
	if refused(err) {
		h.opt.Log.Warn("remove old record of changes", "disk", d.Name, "error", err)
		return nil
	}
	return err
}

// inSeries tells whether a name is that of a record of the disk's series.
func inSeries(t snapshot.TrackPlan, name string) bool {
	return t.Stem != "" && strings.HasPrefix(name, t.Stem)
}

// forgotten tells, by the times in the names of both, whether a record of any series is
// so old at a run that nobody will come for it: its group or repository is gone.
func forgotten(name, run string) bool {
	parts := strings.SplitN(name, "-", 4)
	if len(parts) < 4 || parts[0]+"-" != nodePrefix {
		return false
	}
	then, err1 := runTime(parts[3])
	now, err2 := runTime(run)
	return err1 == nil && err2 == nil && now.Sub(then) > maxAge
}

// runTime is when a run of the agent began.
func runTime(run string) (time.Time, error) {
	text, _, _ := strings.Cut(run, "-")
	return time.Parse("20060102T150405Z", text)
}

// removeRecords removes bitmaps from a node.
func (m *monitor) removeRecords(ctx context.Context, in *inserted, unneeded func(name string) bool) error {
	var errs []error
	for _, b := range in.Bitmaps {
		if !unneeded(b.Name) {
			continue
		}
		err := m.Execute(ctx, "block-dirty-bitmap-remove", args{"node": in.Node, "name": b.Name}, nil)
		if err != nil && !refused(err) {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// refused: QEMU has answered, and the answer is no.
func refused(err error) bool {
	var no *qmp.Error
	return errors.As(err, &no)
}

// startRecords are the actions that begin the plan's records.
func startRecords(p snapshot.Plan) (actions []args) {
	for _, d := range p.Disks {
		if t := d.Track; t.Record != "" {
			actions = append(actions, args{"type": "block-dirty-bitmap-add", "data": args{
				"node": d.Node, "name": t.Record, "granularity": t.Grain, "persistent": t.Persistent}})
		}
	}
	return actions
}

// Settle removes records from the images, which the merge has put back in their place.
func (h *Host) Settle(ctx context.Context, p snapshot.Plan, keep map[string]string) error {
	err := h.during(ctx, p, func(m *monitor) error {
		drives, err := m.drives(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, d := range p.Disks {
			in, err := asPlanned(drives, d)
			if err == nil {
				err = m.removeRecords(ctx, in, func(name string) bool { return inSeries(d.Track, name) && name != keep[d.Name] })
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("remove records of changes of %s: %w", p.VM, err)
	}
	return nil
}
