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
	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/transport/repo"
)

// forgetFlags say which points go.
type forgetFlags struct {
	keep   retention.Keep
	points []string // ids
	last   bool
	dry    bool
	// damaged are points that cannot be read, [VM@]ID.
	damaged []string
	// signer is the label of the key whose points rules go over; empty: all keys'.
	signer string
	all    bool // of the signer, readable or not, and no rules
}

func (in *invocation) forgetCommand() *cobra.Command {
	var o forgetFlags
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "forget [VM...]",
		Short: "Remove restore points that no rule keeps",
		Long: "Remove restore points of the VMs, or of all: by the keep rules of their groups, by those\n" +
			"of the --keep flags, or those that --point names. Try it with --dry-run first: it says\n" +
			"of each point why it stays or goes. The points of each key are counted on their own, and\n" +
			"the newest of a VM always stays, unless --point names it and --even-last is given; a\n" +
			"point that is held stays in any case.\n" +
			"What the points alone needed is deleted by `lull prune`. What the store keeps locked\n" +
			"stays until its time is over. A point that cannot be read, which `lull check` names,\n" +
			"stops all rules and prunes: get it back from a copy of the store, or give it up with\n" +
			"--damaged. --all --signed-by lets all go that a key has signed, as that of a host which\n" +
			"was taken over, whether they can be read or not; what it stored before that, too.",
		Example: "  lull forget --dry-run\n  lull forget lab/web --keep-daily 14 --keep-monthly 6 --dry-run\n" +
			"  lull forget lab/web --signed-by oldhost --keep-last 1\n" +
			"  lull forget --point 20261121T013000Z-9f86d081",
		Args: cobra.ArbitraryArgs,
		RunE: in.run(func(cmd *cobra.Command, args []string) error { return in.forget(cmd.Context(), args, o) }),
	})
	f := cmd.Flags()
	f.BoolVar(&o.dry, "dry-run", false, "change nothing, and say of each point why it stays or goes")
	f.StringSliceVar(&o.points, "point", nil, "forget the points with these `ID`s, and no others")
	f.StringSliceVar(&o.damaged, "damaged", nil, "give up the points with these `ID`s, or VM@ID, which cannot be read")
	f.BoolVar(&o.last, "even-last", false, "with --point or --all: even the last point of a VM")
	f.StringVar(&o.signer, "signed-by", "", "only the points of the key `LABEL`, by rules; with --all a signer of `lull key list --json`, too")
	f.BoolVar(&o.all, "all", false, "all points that --signed-by names")
	f.IntVar(&o.keep.Last, "keep-last", 0, "keep the `N` newest points")
	f.IntVar(&o.keep.Daily, "keep-daily", 0, "keep the newest of each of `N` days")
	f.IntVar(&o.keep.Weekly, "keep-weekly", 0, "keep the newest of each of `N` weeks")
	f.IntVar(&o.keep.Monthly, "keep-monthly", 0, "keep the newest of each of `N` months")
	f.IntVar(&o.keep.Yearly, "keep-yearly", 0, "keep the newest of each of `N` years")
	return cmd
}

func (in *invocation) forget(ctx context.Context, vms []string, o forgetFlags) error {
	if len(o.points) > 0 && !o.keep.IsZero() || len(o.points) == 0 && !o.all && o.last {
		return withHint(usagef("forget: --point and rules exclude each other, and --even-last needs --point or --all"), "run lull twice")
	}
	if o.all && (o.signer == "" || !o.keep.IsZero()) {
		return usagef("forget: --all goes with --signed-by, and with no rules")
	}
	if o.signer != "" && len(o.points)+len(o.damaged) > 0 {
		return usagef("forget: --signed-by goes with rules, not with --point or --damaged")
	}
	t, err := in.target()
	if err != nil {
		return err
	}
	if o.all {
		return in.forgetSigned(ctx, t, vms, o)
	}
	if len(o.damaged) > 0 {
		return in.forgetDamaged(ctx, t, vms, o)
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		points, err := forgettable(ctx, r, vms)
		if err != nil {
			return fmt.Errorf("forget in %s: %w", t.repository.Name, err)
		}
		held, err := r.Holds(ctx)
		if err != nil {
			return fmt.Errorf("forget in %s: %w", t.repository.Name, err)
		}
		in.warnSigners(points)
		verdicts, err := judge(t, points, held, o)
		if err != nil {
			return err
		}
		if err := in.warnUnproven(ctx, r, agent.Going(verdicts)); err != nil {
			return fmt.Errorf("forget in %s: %w", t.repository.Name, err)
		}
		if !o.dry {
			err := agent.Forget(ctx, r, verdicts)
			if err != nil && (len(o.points) > 0 || !errors.As(err, new(*repo.LockedError))) {
				return fmt.Errorf("forget in %s: %w", t.repository.Name, err)
			}
		}
		return in.showVerdicts(verdicts, o.dry)
	})
}

// forgetDamaged gives points up that cannot be read.
func (in *invocation) forgetDamaged(ctx context.Context, t target, vms []string, o forgetFlags) error {
	if len(vms)+len(o.points) > 0 || !o.keep.IsZero() || o.dry {
		return withHint(usagef("forget: --damaged goes with no VM, rule, --point or --dry-run"), "run lull twice")
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		for _, name := range o.damaged {
			vm, id, named := strings.Cut(name, "@")
			if !named {
				vm, id = "", name
			}
			if err := r.ForgetDamaged(ctx, vm, id); err != nil {
				return fmt.Errorf("%s: %w", t.repository.Name, err)
			}
		}
		return in.told(map[string]any{"given_up": o.damaged}, "%s given up", count(len(o.damaged), "damaged restore point"))
	})
}

// forgetSigned forgets all that a key has signed.
func (in *invocation) forgetSigned(ctx context.Context, t target, vms []string, o forgetFlags) error {
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		points, err := r.SignedBy(ctx, o.signer, vms...)
		if err != nil {
			return fmt.Errorf("forget in %s: %w", t.repository.Name, err)
		}
		i := slices.IndexFunc(points, func(p repo.SignedPoint) bool { return p.Only && p.Held == nil })
		if i >= 0 && !o.last && !o.dry {
			return withHint(usagef("forget: that would leave %s without any restore point", points[i].VM), "give --even-last if that is meant")
		}
		if err := in.warnUnproven(ctx, r, readable(points)); err != nil {
			return fmt.Errorf("forget in %s: %w", t.repository.Name, err)
		}
		if !o.dry {
			err = r.ForgetSigned(ctx, points)
		}
		var locked *repo.LockedError
		if err != nil && !errors.As(err, &locked) {
			return fmt.Errorf("forget in %s: %w", t.repository.Name, err)
		}
		return in.showVerdicts(judgeSigned(points, locked), o.dry)
	})
}

// judgeSigned says of points of one key what becomes of them.
func judgeSigned(points []repo.SignedPoint, locked *repo.LockedError) (out []agent.Verdict) {
	for _, p := range points {
		v := agent.Verdict{Point: p.Point, Reasons: []string{"signed by " + p.SignedBy}}
		switch {
		case p.Held != nil:
			v.Keep, v.Reasons = true, append(v.Reasons, "held")
		case locked != nil && slices.Contains(locked.Points, p.ID):
			v.Keep, v.Reasons = true, append(v.Reasons, "locked by the store")
		case p.Damaged != nil:
			v.Reasons = append(v.Reasons, "cannot be read: "+plainError(p.Damaged))
		case p.Only:
			v.Reasons = append(v.Reasons, "its VM has none of another key (--even-last)")
		}
		out = append(out, v)
	}
	return out
}

// forgettable are all points of some VMs, or of all. Where one cannot be read none is
// forgotten: rules would count wrong.
func forgettable(ctx context.Context, r *repo.Repository, vms []string) (points []repo.Point, err error) {
	if len(vms) == 0 {
		return r.Points(ctx, "")
	}
	for _, vm := range vms {
		of, err := pointsOf(ctx, r, vm)
		if err != nil {
			return nil, err
		}
		points = append(points, of...)
	}
	return points, nil
}

// warnSigners tells of VMs whose points several keys made.
func (in *invocation) warnSigners(points []repo.Point) {
	for of := range byVM(points) {
		if w := agent.ManySigners(of[0].VM, agent.Signers(of)); w != "" {
			in.warn("%s", w)
		}
	}
}

// readable are the points that go and can be read.
func readable(signed []repo.SignedPoint) (points []repo.Point) {
	for i := range signed {
		if signed[i].Damaged == nil && signed[i].Held == nil {
			points = append(points, signed[i].Point)
		}
	}
	return points
}

// maxWarned bounds how many points that are nowhere are named.
const maxWarned = 10

// warnUnproven names what points that go say to be there and is not: nobody asks for it any
// more when they are gone.
func (in *invocation) warnUnproven(ctx context.Context, r *repo.Repository, points []repo.Point) error {
	if len(points) == 0 {
		return nil
	}
	all, err := r.Unproven(ctx, points)
	if err != nil {
		return err
	}
	for _, u := range all[:min(len(all), maxWarned)] {
		in.warn("point %s names %.120q, which is not in the store like that and was not forgotten: with that point it is asked for no more", u.By, u.Object)
	}
	if n := len(all) - maxWarned; n > 0 {
		in.warn("%s more like that", count(n, "point"))
	}
	return nil
}

// judge says of each point what becomes of it.
func judge(t target, points []repo.Point, held map[string]repo.Held, o forgetFlags) ([]agent.Verdict, error) {
	if len(o.points) > 0 {
		return judgeNamed(points, o)
	}
	if o.signer != "" {
		points = slices.DeleteFunc(points, func(p repo.Point) bool { return p.SignedBy != o.signer })
	}
	var out []agent.Verdict
	for of := range byVM(points) {
		keep, err := rulesFor(t, of[0].VM, o)
		if err != nil {
			return nil, err
		}
		out = append(out, agent.Judge(keep, of, held, time.Local)...)
	}
	return out, nil
}

// byVM yields the points of each VM; they are in order of VMs.
func byVM(points []repo.Point) func(func([]repo.Point) bool) {
	return func(yield func([]repo.Point) bool) {
		for len(points) > 0 {
			n := slices.IndexFunc(points, func(p repo.Point) bool { return p.VM != points[0].VM })
			if n < 0 {
				n = len(points)
			}
			if !yield(points[:n]) {
				return
			}
			points = points[n:]
		}
	}
}

// rulesFor are the rules of the flags, else those of the VM's groups that use the
// repository. A VM in no group keeps everything.
func rulesFor(t target, vm string, o forgetFlags) (retention.Keep, error) {
	if !o.keep.IsZero() {
		return o.keep, nil
	}
	if t.config == nil {
		return o.keep, withHint(usagef("forget: without a configuration there are no rules"), "give --keep-last and the like, or --point")
	}
	return t.config.KeepOf(vm, t.repository.Name), nil
}

// judgeNamed lets the points go that are named.
func judgeNamed(points []repo.Point, o forgetFlags) (out []agent.Verdict, err error) {
	found := 0
	for of := range byVM(points) {
		left := 0
		for _, p := range of {
			v := agent.Verdict{Point: p, Keep: !slices.Contains(o.points, p.ID), Reasons: []string{"not named"}}
			if !v.Keep {
				v.Reasons = []string{"named"}
				found++
			} else {
				left++
			}
			out = append(out, v)
		}
		if left == 0 && !o.last {
			return nil, withHint(usagef("forget: that would leave %s without any restore point", of[0].VM), "give --even-last if that is meant")
		}
	}
	if found < len(o.points) {
		return nil, fmt.Errorf("forget: %d of %d points are not there: %w", len(o.points)-found, len(o.points), repo.ErrNotFound)
	}
	return out, nil
}

// forgotten is a verdict as --json shows it.
type forgotten struct {
	VM      string    `json:"vm"`
	Point   string    `json:"point"`
	Frozen  time.Time `json:"frozen"`
	Signer  string    `json:"signed_by,omitempty"`
	Keep    bool      `json:"keep"`
	Reasons []string  `json:"reasons"`
}

func (in *invocation) showVerdicts(verdicts []agent.Verdict, dry bool) error {
	going := len(agent.Going(verdicts))
	if in.flags.json {
		list := []forgotten{}
		for _, v := range verdicts {
			list = append(list, forgotten{v.Point.VM, v.Point.ID, v.Point.Frozen, v.Point.SignedBy, v.Keep, v.Reasons})
		}
		return writeJSON(in.Stdout, map[string]any{"dry_run": dry, "points": list})
	}
	var err error
	if dry && len(verdicts) > 0 {
		tab := newTable("VM", "POINT", "TIME", "", "WHY")
		for _, v := range verdicts {
			what := "goes"
			if v.Keep {
				what = "stays"
			}
			tab.add(v.Point.VM, v.Point.ID, moment(v.Point.Frozen), what, strings.Join(v.Reasons, ", "))
		}
		err = tab.write(in.Stdout)
	}
	verb := "forgotten"
	if dry {
		verb = "would be forgotten"
	}
	in.note("%s of %d %s", count(going, "restore point"), len(verdicts), verb)
	return err
}

func (in *invocation) holdCommand() *cobra.Command {
	var reason string
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:     "hold POINT",
		Short:   "Keep a restore point whatever the rules say",
		Example: "  lull hold 20261121T013000Z-9f86d081 --reason 'before the upgrade'",
		Args:    argCount(1, 1, "the restore point"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			return in.withPoint(cmd.Context(), args[0], func(r *repo.Repository, p repo.Point) error {
				return r.Hold(cmd.Context(), p, reason)
			})
		}),
	})
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that is shown with the point")
	return cmd
}

func (in *invocation) releaseCommand() *cobra.Command {
	return in.addRepositoryFlags(&cobra.Command{
		Use:   "release POINT",
		Short: "End the hold of a restore point",
		Args:  argCount(1, 1, "the restore point"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			return in.withPoint(cmd.Context(), args[0], func(r *repo.Repository, p repo.Point) error {
				return r.Release(cmd.Context(), p)
			})
		}),
	})
}

// withPoint finds a restore point by its id.
func (in *invocation) withPoint(ctx context.Context, id string, fn func(*repo.Repository, repo.Point) error) error {
	t, err := in.target()
	if err != nil {
		return err
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		points, damaged := r.Points(ctx, "")
		i := slices.IndexFunc(points, func(p repo.Point) bool { return p.ID == id })
		if i < 0 {
			return errors.Join(fmt.Errorf("point %s: %w", id, repo.ErrNotFound), damaged)
		}
		return fn(r, points[i])
	})
}
