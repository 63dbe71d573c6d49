package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// deadManName is the hidden command of the process that outlives a run: it thaws
// the guest when the run's process dies with the guest frozen.
const deadManName = "dead-man"

// deadMan makes the guard of a VM of the configuration, made of this very program.
func (in *invocation) deadMan(vm string) func() quiesce.Guard {
	return func() quiesce.Guard {
		return quiesce.NewDeadMan(func() *exec.Cmd {
			path, err := filepath.Abs(in.flags.config)
			if err != nil {
				path = in.flags.config // it says itself what it cannot find
			}
			cmd := exec.Command(in.Program, "--config", path, "--quiet", deadManName, vm)
			if f, ok := in.Stderr.(*os.File); ok {
				cmd.Stderr = f
			}
			return cmd
		})
	}
}

func (in *invocation) deadManCommand() *cobra.Command {
	return &cobra.Command{
		Use:    deadManName + " VM",
		Short:  "Thaw a guest when lull dies while it is frozen; lull starts it by itself",
		Hidden: true,
		Args:   argCount(1, 1, "VM"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			cfg, err := in.loadConfig()
			if err != nil {
				return err
			}
			host, vm, err := resolver(cfg, in.openHosts(cfg))(args[0])
			if err != nil {
				return err
			}
			return quiesce.StandBy(cmd.Context(), in.Stdin, in.Stdout, func(ctx context.Context) error {
				return in.thawGuest(ctx, host, vm)
			})
		}),
	}
}

func (in *invocation) thawGuest(ctx context.Context, host snapshot.Host, vm string) error {
	guest, err := host.Guest(ctx, vm)
	if errors.Is(err, snapshot.ErrNoGuest) {
		return nil // nothing runs that could be frozen
	}
	if err != nil {
		return fmt.Errorf("reach guest: %w", err)
	}
	defer guest.Close()
	return quiesce.EnsureThawed(ctx, guest, in.logger(slog.LevelWarn))
}
