package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
)

func (in *invocation) recoverCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "recover VM...",
		Short: "Repair what an interrupted run left of VMs",
		Long: "Thaw the guests and merge the deltas that an interrupted run left, as the agent does by\n" +
			"itself and a backup of the VM does first. Deltas that the VM writes to although no\n" +
			"journal has them, as after the loss of the state folder, are merged too; `lull doctor`\n" +
			"shows them. What only an administrator can decide stays as it is, and is told.",
		Args: argCount(1, -1, "the VM"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error { return in.recover(cmd.Context(), args) }),
	}
}

func (in *invocation) recover(ctx context.Context, args []string) error {
	cfg, err := in.loadConfig()
	if err != nil {
		return err
	}
	state, err := in.openJournal(cfg)
	if err != nil {
		return err
	}
	hosts := in.openHosts(cfg)
	cfg, err = in.discover(ctx, cfg, hosts)
	in.fail(err) // of the others there may be all that is asked for
	resolve := resolver(cfg, hosts)
	gone, args := owedGone(state, cfg, resolve, args)
	for _, name := range append(in.chooseVMs(cfg, args), gone...) {
		story := in.newStory(name)
		runner := &agent.Runner{Journal: state, Log: in.logger(slog.LevelWarn), Observe: story.hear, Version: in.Version, Now: time.Now,
			Writers: in.allWriters(cfg), DeadMan: in.recoveryDeadMan(cfg)}
		left, err := runner.RecoverVM(ctx, name, resolve)
		story.close()
		in.failVM(name, errors.Join(agent.Interrupted(ctx, err), stillLeft(name, left)))
	}
	return nil
}

// owedGone finds the names of VMs that their host does not tell of any more, as they were
// renamed or undefined there, but that the journal has. The rest is for others.
func owedGone(state *journal.Journal, cfg *config.Config, resolve agent.Resolve, args []string) (gone, rest []string) {
	for _, name := range args {
		if _, owed, err := state.Read(name); err == nil && owed && len(cfg.Match(name)) == 0 && tellsOfVMs(resolve, name) {
			gone = append(gone, name)
			continue
		}
		rest = append(rest, name)
	}
	return gone, rest
}

// tellsOfVMs tells whether the VMs of a host are those that it finds, not those of the file.
func tellsOfVMs(resolve agent.Resolve, name string) bool {
	host, _, err := resolve(name)
	_, ok := host.(snapshot.Discoverer)
	return err == nil && ok
}

// stillLeft is the error of a VM that recovery could not repair.
func stillLeft(name string, left []snapshot.Finding) error {
	for _, f := range left {
		if f.Blocks() {
			return withHint(fmt.Errorf("recover %s: %s: %w", name, f.Text, snapshot.ErrMergePending), "%s", f.Next)
		}
	}
	return nil
}
