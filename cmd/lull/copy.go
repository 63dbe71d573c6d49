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
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo"
)

// copyFlags name the repository that is copied into.
type copyFlags struct {
	dir, name, passphrase string
}

func (in *invocation) copyCommand() *cobra.Command {
	var flags copyFlags
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "copy [VM[@POINT]...] --to-repo DIR | --to NAME",
		Short: "Copy restore points into another repository",
		Long: "Copy restore points, of all VMs or of those named, into another repository. What is\n" +
			"there is passed over, so that it can be run again and again. Points keep their ids\n" +
			"and times; data is verified and encrypted anew with the keys of the target.",
		Example: "  lull copy --repository main --to offsite\n" +
			"  lull copy lab/web@latest --repo /srv/backup --to-repo /mnt/usb --to-passphrase-file usb.key",
		Args: argCount(0, -1, ""),
		RunE: in.run(func(cmd *cobra.Command, args []string) error { return in.copy(cmd.Context(), args, flags) }),
	})
	f := cmd.Flags()
	f.StringVar(&flags.dir, "to-repo", "", "repository folder `DIR` to copy into")
	f.StringVar(&flags.name, "to", "", "`NAME` of the repository of the configuration to copy into")
	f.StringVar(&flags.passphrase, "to-passphrase-file", "", "`FILE` that holds the passphrase of the target")
	// The only error is that there is no such flag.
	_ = cmd.RegisterFlagCompletionFunc("to", in.completeRepositories)
	return cmd
}

// copied is a point as --json shows it.
type copied struct {
	VM     string      `json:"vm"`
	Point  string      `json:"point"`
	Frozen time.Time   `json:"frozen"`
	Stats  *repo.Stats `json:"stats,omitempty"` // nil: it was there
}

func (in *invocation) copy(ctx context.Context, what []string, flags copyFlags) error {
	if (flags.dir == "") == (flags.name == "") {
		return withHint(usagef("copy: where to?"), "name the target with --to-repo DIR or --to NAME")
	}
	from, err := in.target()
	if err != nil {
		return err
	}
	into := in.other(flags)
	to, err := into.target()
	if err != nil {
		return err
	}
	return in.withRepository(ctx, from, func(source *repo.Repository) error {
		return into.withRepository(ctx, to, func(target *repo.Repository) error {
			if source.ID() == target.ID() {
				return withHint(usagef("copy: %s and %s are one repository", from.repository.Name, to.repository.Name), "name another target")
			}
			return in.copyAll(ctx, source, target, what)
		})
	})
}

// other is this invocation as it looks at the target.
func (in *invocation) other(flags copyFlags) *invocation {
	o := &invocation{App: in.App, flags: in.flags, started: true, unattended: in.unattended}
	o.flags.repoDir, o.flags.repository, o.flags.passphrase = flags.dir, flags.name, flags.passphrase
	return o
}

// copyAll copies what was asked for. A point that cannot be read does not hold up the
// others.
func (in *invocation) copyAll(ctx context.Context, source, target *repo.Repository, what []string) error {
	all, failed := source.Points(ctx, "")
	if failed != nil && !partial(failed) {
		return failed
	}
	chosen, err := chooseToCopy(ctx, source, all, what)
	if err != nil {
		return err
	}
	there, err := target.Points(ctx, "")
	if err != nil && !partial(err) {
		return fmt.Errorf("look into the target: %w", err)
	}
	copies := findCopies(target, there)
	var done []copied
	for _, p := range chosen {
		c := copied{VM: p.VM, Point: p.ID, Frozen: p.Frozen}
		if !copies.has(source, &p) {
			if by, is := copies.doubtful(source, &p); is {
				in.warn("the target has %s@%s by the word of key %s only, which does not maintain it and is not the one that copies: copied all the same", p.VM, p.ID, by)
			}
			stats, err := in.copyPoint(ctx, source, target, p, all)
			switch {
			case err == nil:
				c.Stats = &stats
			case errors.Is(err, blob.ErrExists): // another host was faster
			case partial(err) || errors.Is(err, repo.ErrBusy) || errors.Is(err, repo.ErrFenced):
				failed = errors.Join(failed, err)
				continue
			default:
				return err
			}
		}
		done = append(done, c)
	}
	return errors.Join(in.showCopied(done), failed)
}

// copies are what a target has of other repositories' points, and of its own.
type copies struct {
	sure map[repo.Origin]bool
	// said and named are by whom there are points that are not believed: which say that
	// they are copies, and which have a name that a copy would have.
	said  map[repo.Origin]string
	named map[string]string
}

func findCopies(target *repo.Repository, there []repo.Point) copies {
	c := copies{map[repo.Origin]bool{}, map[repo.Origin]string{}, map[string]string{}}
	for i := range there {
		p := &there[i]
		c.sure[target.OriginOf(p)] = true
		if p.Believed {
			continue
		}
		c.named[p.VM+"@"+p.ID] = p.SignedBy
		if p.Origin != nil {
			c.said[*p.Origin] = p.SignedBy
		}
	}
	return c
}

// has tells whether a point of the source is there: its copy, or what it says itself to be a
// copy of. Who lies there keeps nobody's points back but its own.
func (c *copies) has(source *repo.Repository, p *repo.Point) bool {
	return c.sure[source.OriginOf(p)] || p.Origin != nil && c.sure[*p.Origin]
}

// doubtful tells by whom a point of the source is there, if it is.
func (c *copies) doubtful(source *repo.Repository, p *repo.Point) (by string, is bool) {
	if by, is = c.said[source.OriginOf(p)]; is {
		return by, is
	}
	by, is = c.named[p.VM+"@"+p.ID]
	return by, is
}

// chooseToCopy are the points that the arguments name, by VM and oldest first.
func chooseToCopy(ctx context.Context, r *repo.Repository, all []repo.Point, what []string) ([]repo.Point, error) {
	if len(what) == 0 {
		return all, nil
	}
	wanted := map[string]bool{}
	for _, w := range what {
		vm, which, one := strings.Cut(w, "@")
		points, err := pointsOf(ctx, r, vm)
		if err != nil && (len(points) == 0 || !partial(err)) {
			return nil, fmt.Errorf("copy %s: %w", w, err)
		}
		if one {
			p, err := choosePoint(points, which)
			if err != nil {
				return nil, fmt.Errorf("copy %s: %w", w, err)
			}
			points = []repo.Point{p}
		}
		for _, p := range points {
			wanted[p.VM+"@"+p.ID] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(p repo.Point) bool { return !wanted[p.VM+"@"+p.ID] }), nil
}

func (in *invocation) copyPoint(ctx context.Context, source, target *repo.Repository, p repo.Point, all []repo.Point) (repo.Stats, error) {
	story := in.newStory("copy")
	defer story.close()
	in.note("copy %s as of %s (%s)", p.VM, moment(p.Frozen), p.ID)
	var total int64
	for _, d := range p.Disks {
		total += d.Root.Data
	}
	earlier := slices.DeleteFunc(slices.Clone(all), func(o repo.Point) bool { return o.VM != p.VM })
	meter := newMeter(func(done int64) {
		story.hear(agent.Event{Time: time.Now(), VM: p.VM, Step: agent.StepReading, Done: min(done, total), Total: total})
	})
	got, err := transport.Copy(ctx, source, target, p, earlier, transport.Options{Progress: meter.add})
	if err != nil {
		return repo.Stats{}, fmt.Errorf("copy %s@%s: %w", p.VM, p.ID, err)
	}
	return got.Stats, nil
}

func (in *invocation) showCopied(done []copied) error {
	if in.flags.json {
		if done == nil {
			done = []copied{}
		}
		return writeJSON(in.Stdout, map[string]any{"copied": done})
	}
	if in.flags.quiet {
		return nil
	}
	t := newTable("VM", "POINT", "TIME", "NEW", "STORED")
	there := 0
	for _, c := range done {
		if c.Stats == nil {
			there++
			continue
		}
		t.add(c.VM, c.Point, moment(c.Frozen), size(c.Stats.New), size(c.Stats.Stored))
	}
	if len(t.rows) > 1 {
		if err := t.write(in.Stdout); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(in.Stdout, "%s copied, %s there already\n", count(len(done)-there, "restore point"), count(there, "restore point"))
	return err
}
