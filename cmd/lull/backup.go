package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/transport/repo"
)

func (in *invocation) backupCommand() *cobra.Command {
	var loose looseFlags
	var audit bool
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "backup {VM... | --image PATH}",
		Short: "Back up virtual machines now",
		Long: "Back up virtual machines of the configuration, by host/name, by name alone where\n" +
			"that is unique, or by a shell pattern over host/name; or, with --image, the disk\n" +
			"images of one powered-off VM, which need no configuration.",
		Example: "  lull backup lab/web\n  lull backup 'lab/*' --repository offsite\n" +
			"  lull backup --repo /srv/backup --image /srv/old/disk.qcow2 --name old",
		Args:              argCount(0, -1, ""),
		ValidArgsFunction: in.completeVMs,
		RunE:              in.run(func(cmd *cobra.Command, args []string) error { return in.backup(cmd.Context(), args, loose, audit) }),
	})
	f := cmd.Flags()
	f.StringArrayVar(&loose.images, "image", nil, "disk image `PATH` to back up; again for each further disk of the VM")
	f.StringVar(&loose.format, "format", "", "`FORMAT` of the images: raw, qcow2, vhd, vhdx or vmdk (default: by the ending of the name, raw for any other)")
	f.StringArrayVar(&loose.parents, "parent", nil, "`PATH` of an image that a VHD, VHDX or VMDK was made on, if not in its folder; may be repeated")
	f.StringVar(&in.flags.compression, "compression", "", "compress `HARD`: auto, fast or best (default: the configuration's, else auto)")
	f.BoolVar(&audit, "audit-tracking", false, "read all of the disks, and compare what is said to be unchanged with the restore point before")
	f.StringVar(&loose.name, "name", "", "`NAME` of the VM (default: the first image's file name without its ending)")
	return cmd
}

// backup backs up one VM after the other. One that fails does not keep the rest
// from being backed up; the worst exit code counts.
func (in *invocation) backup(ctx context.Context, args []string, loose looseFlags, audit bool) error {
	jobs, err := in.backupJobs(ctx, args, loose)
	if err != nil {
		return err
	}
	repositories := in.newShelf()
	defer repositories.close()
	done := newTable("VM", "POINT", "LEVEL", "FROZEN", "READ", "NEW", "STORED", "REQUESTS", "TOOK")
	for _, job := range jobs {
		if ctx.Err() != nil {
			in.failVM(job.name, fmt.Errorf("back up %s: not begun: %w", job.name, agent.Interrupted(ctx, ctx.Err())))
			continue
		}
		job.tracking.Audit = audit
		res, err := in.backupOne(ctx, job, repositories)
		in.failVM(job.name, err)
		if err == nil && len(res.Warnings) > 0 {
			in.code = worse(in.code, exitWarnings)
		}
		if res.Point.ID != "" {
			p := res.Point
			done.add(p.VM, p.ID, p.Quiesce.Level.String(), window(p), size(p.Stats.Read),
				size(p.Stats.New), size(p.Stats.Stored), fmt.Sprint(res.Requests), took(res.Took))
		}
	}
	if in.flags.json || in.flags.quiet || len(done.rows) == 1 {
		return nil
	}
	return done.write(in.Stdout)
}

func (in *invocation) backupOne(ctx context.Context, job vmJob, repositories *shelf) (agent.Result, error) {
	repository, err := repositories.open(ctx, job.target)
	if err != nil {
		return agent.Result{}, fmt.Errorf("back up %s: %w", job.name, agent.Interrupted(ctx, err))
	}
	story := in.newStory(job.name)
	defer story.close()
	runner, err := in.runner(job.target, story.hear, slog.LevelWarn)
	if err != nil {
		return agent.Result{}, fmt.Errorf("back up %s: %w", job.name, err)
	}
	return runner.Backup(ctx, agent.Job{
		Name: job.name, VM: job.vm, Host: job.host, Repository: repository.Repository,
		Policy: job.policy, Writers: job.writers, DeadMan: job.deadMan,
		Tracking: job.tracking, Slowdown: job.slowdown,
	})
}

// window is how long the guest was frozen; nothing where it was not.
func window(p repo.Point) string {
	if p.Quiesce.Window == 0 {
		return ""
	}
	return took(p.Quiesce.Window)
}

// runner is what carries out runs for this invocation.
func (in *invocation) runner(t target, observe agent.Observer, level slog.Level) (*agent.Runner, error) {
	journal, err := in.openJournal(t.config)
	if err != nil {
		return nil, err
	}
	return &agent.Runner{
		Journal: journal, Log: in.logger(level), Observe: observe, Version: in.Version, Now: time.Now,
		Writers: in.allWriters(t.config), DeadMan: in.recoveryDeadMan(t.config),
	}, nil
}
