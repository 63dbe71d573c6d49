package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/control"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/repo"
)

func (in *invocation) agentCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "agent",
		Short: "Run the agent: back up every group by its schedule, until told to stop",
		Long: "Run in the foreground, under systemd for instance, and back up every group of the\n" +
			"configuration by its schedule. SIGTERM and SIGINT end the runs in progress, merge\n" +
			"their deltas, and stop the agent.",
		Args: argCount(0, 0, ""),
		RunE: in.run(func(cmd *cobra.Command, _ []string) error { return in.agent(cmd.Context()) }),
	}
}

func (in *invocation) agent(ctx context.Context) error {
	in.unattended = true
	cfg, err := in.loadConfig()
	if err != nil {
		return err
	}
	d, err := in.daemon(cfg)
	if err != nil {
		return err
	}
	socket, err := control.Listen(cfg.Agent.Socket)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	tellAgent(d.Log, cfg)
	// The socket outlives the runs: status answers until the last is merged.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := control.Serve(serving, socket, control.Handlers{Status: d.Board.Status}, d.Log); err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		defer stopServing()
		return d.Run(ctx)
	})
	silence := context.AfterFunc(ctx, func() { in.notify(d.Log, daemon.SdNotifyStopping) })
	defer silence()
	return g.Wait()
}

// daemon wires the agent of a configuration.
func (in *invocation) daemon(cfg *config.Config) (*agent.Daemon, error) {
	hosts := in.openHosts(cfg)
	journal, err := in.openJournal(cfg)
	if err != nil {
		return nil, err
	}
	cache, err := in.cacheDir(cfg)
	if err != nil {
		return nil, err
	}
	groups := in.groups(cfg, hosts)
	log := in.logger(slog.LevelInfo)
	machine, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("agent: host name: %w", err)
	}
	board := agent.NewBoard(in.Version, os.Getpid(), time.Now(), journal, groups)
	return &agent.Daemon{
		Runner: &agent.Runner{
			Journal: journal, Log: log, Version: in.Version, Now: time.Now, Observe: in.agentObserver(board),
			Writers: in.allWriters(cfg), DeadMan: in.recoveryDeadMan(cfg),
		},
		Groups: groups, Upkeep: in.upkeep(cfg, cache), Parallel: cfg.Agent.Parallel, Resolve: resolver(cfg, hosts), Board: board, Log: log,
		Machine: machine,
		Ready:   func() { in.notify(log, daemon.SdNotifyReady) },
	}, nil
}

// tellAgent logs once what an administrator might take for granted.
func tellAgent(log *slog.Logger, cfg *config.Config) {
	for _, g := range cfg.Groups {
		if g.Keep.IsZero() {
			log.Info("all restore points are kept: the group has no keep", "group", g.Name)
		}
	}
	if left := cfg.Ungrouped(); len(left) > 0 {
		log.Warn("VMs in no group are not backed up", "vms", left)
	}
}

// agentObserver shows events on the board and, with --json, on stdout.
func (in *invocation) agentObserver(board *agent.Board) agent.Observer {
	lines := in.newStory("agent")
	return func(e agent.Event) {
		board.Hear(e)
		if in.flags.json {
			lines.hear(e)
		} else if in.Observe != nil {
			in.Observe(e)
		}
	}
}

// notify tells systemd, where it listens.
func (in *invocation) notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("tell systemd", "state", state, "error", err)
	}
}

func (in *invocation) groups(cfg *config.Config, hosts map[string]snapshot.Host) []agent.Group {
	var groups []agent.Group
	for _, g := range cfg.Groups {
		groups = append(groups, agent.Group{
			Name: g.Name, Schedule: g.Schedule, Jitter: cfg.Agent.Jitter, CatchUp: g.CatchUp, VMs: g.VMs, Keep: g.Keep,
			Open: func(ctx context.Context, vms []string) ([]agent.Job, func() error, error) {
				return in.openGroup(ctx, cfg, hosts, g, vms)
			},
			Members: in.members(cfg, hosts, g.Name),
		})
	}
	return groups
}

// upkeep is the maintenance of the repositories that groups with rules back up to, or that
// lock objects.
func (in *invocation) upkeep(cfg *config.Config, cache string) (all []agent.Upkeep) {
	for _, r := range cfg.Repositories {
		uses := func(g config.Group) bool { return g.Repository == r.Name }
		forgets := func(g config.Group) bool { return uses(g) && !g.Keep.IsZero() }
		u := agent.Upkeep{
			Repository: r.Name, Schedule: r.Maintenance.Schedule, Jitter: cfg.Agent.Jitter,
			Prune: slices.ContainsFunc(cfg.Groups, forgets), Grace: r.Maintenance.Grace,
			Open: func(ctx context.Context) (*repo.Repository, func() error, error) {
				opened, err := in.openRepository(ctx, target{repository: r, config: cfg})
				if err != nil {
					return nil, nil, err
				}
				return opened.Repository, opened.Close, nil
			},
		}
		if r.ObjectLock != nil && slices.ContainsFunc(cfg.Groups, uses) {
			u.Locks = func(opened *repo.Repository) repo.LockOptions {
				return lockOptions(target{repository: r, config: cfg}, cache, opened)
			}
		}
		if (u.Prune || u.Locks != nil) && !u.Schedule.IsZero() {
			all = append(all, u)
		}
	}
	return all
}

// openGroup opens the group's repository for a run of some of its VMs.
func (in *invocation) openGroup(ctx context.Context, cfg *config.Config, hosts map[string]snapshot.Host, g config.Group, vms []string) ([]agent.Job, func() error, error) {
	r, ok := cfg.Repository(g.Repository)
	if !ok {
		return nil, nil, missingf("no repository %s", g.Repository)
	}
	repository, err := in.openRepository(ctx, target{repository: r, config: cfg})
	if err != nil {
		return nil, nil, err
	}
	resolve := resolver(cfg, hosts)
	var jobs []agent.Job
	for _, name := range vms {
		host, vm, err := resolve(name)
		if err != nil {
			return nil, nil, errors.Join(err, repository.Close())
		}
		jobs = append(jobs, agent.Job{
			Name: name, VM: vm, Host: host, Repository: repository.Repository,
			Policy: g.Policy, Writers: in.writers(cfg, g), DeadMan: in.deadMan(cfg, g, name),
			Tracking: tracking(g), Slowdown: g.Slowdown,
		})
	}
	return jobs, repository.Close, nil
}

func tracking(g config.Group) agent.Tracking {
	return agent.Tracking{Off: !g.Tracking.Enabled, Every: g.Tracking.Audit}
}

// resolver finds a VM of the configuration by its journal name. A name without a
// host is a loose image's, whose runs change nothing but their own traces.
func resolver(cfg *config.Config, hosts map[string]snapshot.Host) agent.Resolve {
	return func(name string) (snapshot.Host, string, error) {
		hostName, vm, ok := strings.Cut(name, "/")
		if !ok {
			return imageHost(nil), name, nil
		}
		host, ok := hosts[hostName]
		if !ok {
			return nil, "", withHint(fmt.Errorf("%s: %w", name, snapshot.ErrNotFound),
				"put host %s back into %s until its VM is repaired", hostName, cfg.Path)
		}
		return host, vm, nil
	}
}
