package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/repo"
)

func (in *invocation) pointsCommand() *cobra.Command {
	return in.addRepositoryFlags(&cobra.Command{
		Use:     "points [VM]",
		Short:   "List the restore points of a repository",
		Example: "  lull points lab/web\n  lull points --repo /srv/backup --passphrase-file /etc/lull/passphrase",
		Args:    argCount(0, 1, "the VM"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			vm := ""
			if len(args) > 0 {
				vm = args[0]
			}
			return in.listPoints(cmd.Context(), vm)
		}),
	})
}

// listPoints shows every point that can be read, and then what is wrong with the
// others.
func (in *invocation) listPoints(ctx context.Context, vm string) error {
	t, err := in.target()
	if err != nil {
		return err
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		points, err := pointsOf(ctx, r, vm)
		if err != nil {
			err = fmt.Errorf("points of %s: %w", t.repository.Name, err)
			if !partial(err) {
				return err
			}
		}
		return errors.Join(in.showPoints(t, points), err)
	})
}

func (in *invocation) showPoints(t target, points []repo.Point) error {
	switch {
	case in.flags.json && points == nil:
		points = []repo.Point{}
		fallthrough
	case in.flags.json:
		return writeJSON(in.Stdout, map[string]any{"points": points})
	case len(points) == 0:
		in.note("no restore points in %s yet", t.repository.Name)
		return nil
	}
	return pointTable(points).write(in.Stdout)
}

// partial tells the error that comes beside the points that could be read.
func partial(err error) bool {
	return errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrVersion)
}

// pointsOf lists the points of one VM, oldest first, or of all when vm is empty.
// A VM may be named without its host where that is unique. A partial error may
// come beside the points.
func pointsOf(ctx context.Context, r *repo.Repository, vm string) ([]repo.Point, error) {
	points, err := r.Points(ctx, vm)
	if err != nil || len(points) > 0 || vm == "" {
		return points, err
	}
	all, err := r.Points(ctx, "")
	if err != nil && !partial(err) {
		return nil, err
	}
	points, names := byShortName(all, vm)
	switch len(names) {
	case 0:
		return nil, errors.Join(err, withHint(missingf("no restore point of %s", vm), "see `lull points` for what is there"))
	case 1:
		return points, err
	}
	return nil, withHint(usagef("%s is the name of several VMs", vm), "say which: %s", orList(names))
}

// byShortName picks the points of every VM whose name without its host is vm.
func byShortName(all []repo.Point, vm string) (points []repo.Point, names []string) {
	for _, p := range all {
		if _, name, ok := strings.Cut(p.VM, "/"); ok && name == vm {
			points = append(points, p)
			names = append(names, p.VM)
		}
	}
	return points, slices.Compact(names)
}

func pointTable(points []repo.Point) *table {
	heading := []string{"VM", "POINT", "TIME", "LEVEL", "DISKS", "SIZE", "READ", "NEW", "STORED"}
	several := len(agent.Signers(points)) > 1
	if several {
		heading = append(heading, "KEY")
	}
	t := newTable(heading...)
	for _, p := range points {
		var total int64
		for _, d := range p.Disks {
			total += d.Root.Size
		}
		row := []string{
			p.VM, p.ID, moment(p.Frozen), p.Quiesce.Level.String(), fmt.Sprint(len(p.Disks)),
			size(total), size(p.Stats.Read), size(p.Stats.New), size(p.Stats.Stored),
		}
		if several {
			row = append(row, agent.MadeBy(&p))
		}
		t.add(row...)
	}
	return t
}

// latest names the newest point.
const latest = "latest"

// choosePoint finds the point that which names among those of one VM, oldest
// first: "latest" or nothing for the newest, an id, the start of one, or the
// start of a time such as 2026-11-20 or "2026-11-20 01:3", which means the newest
// point of that day, hour or minute: local time, or with Z or an offset such as
// +01:00 at its end the time there.
func choosePoint(points []repo.Point, which string) (repo.Point, error) {
	if which == "" || which == latest {
		return points[len(points)-1], nil
	}
	if isTime(which) {
		return pointAt(points, which)
	}
	var found []repo.Point
	for _, p := range points {
		if p.ID == which {
			return p, nil
		}
		if strings.HasPrefix(p.ID, which) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return repo.Point{}, noPoint(points, which)
	case 1:
		return found[0], nil
	}
	return repo.Point{}, withHint(usagef("%q is the start of %d restore points of %s", which, len(found), points[0].VM),
		"give more of the id, such as %s", found[len(found)-1].ID)
}

// isTime tells 2026-11-20 from an id, which has no dash after the year.
func isTime(which string) bool {
	return len(which) >= len("2026-") && which[4] == '-' && !strings.ContainsAny(which[:4], "-TZ")
}

func pointAt(points []repo.Point, which string) (repo.Point, error) {
	start, there, err := cutZone(strings.Replace(which, "T", " ", 1))
	if err != nil {
		return repo.Point{}, err
	}
	for _, p := range slices.Backward(points) {
		if strings.HasPrefix(p.Frozen.In(there).Format(time.DateTime), start) {
			return p, nil
		}
	}
	return repo.Point{}, noPoint(points, which)
}

// cutZone takes Z or an offset such as -03:30 off the end of a time.
func cutZone(s string) (start string, zone *time.Location, err error) {
	if start, utc := strings.CutSuffix(s, "Z"); utc {
		return start, time.UTC, nil
	}
	const length = len("+01:00")
	at := len(s) - length
	if at < len("2006-01-02") || !strings.ContainsRune("+-", rune(s[at])) {
		return s, time.Local, nil
	}
	offset, err := time.Parse("-07:00", s[at:])
	if err != nil {
		return "", nil, withHint(usagef("%q is no offset from UTC", s[at:]), "write one such as +01:00, or Z")
	}
	_, east := offset.Zone() // its Location may be the reader's own, with another offset in summer
	return s[:at], time.FixedZone(s[at:], east), nil
}

func noPoint(points []repo.Point, which string) error {
	return withHint(missingf("%s has no restore point %q", points[0].VM, which),
		"see `lull points %s`", snapshot.ShellWord(points[0].VM))
}
