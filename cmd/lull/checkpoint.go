package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
)

// checkpointFlags are those of the commands on checkpoints.
type checkpointFlags struct {
	name     string
	noMemory bool
	cold     bool
	keep     bool
	discard  bool
	subtree  bool
	recover  bool
}

func (in *invocation) checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Keep instants of a virtual machine beside its disks, and go back to them",
		Long: "Checkpoints are for tests and development: disks, memory, devices and configuration of\n" +
			"a VM at one instant, in a tree. They live and die with the disks; they are no backup.",
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(in.checkpointCreateCommand(), in.checkpointListCommand(), in.checkpointApplyCommand(),
		in.checkpointRevertCommand(), in.checkpointDeleteCommand(), in.checkpointMergeCommand())
	return cmd
}

func (in *invocation) checkpointCreateCommand() *cobra.Command {
	var flags checkpointFlags
	cmd := &cobra.Command{
		Use:   "create VM",
		Short: "Make a checkpoint of a running VM",
		Long: "Keep the disks and the memory of a running VM as of one instant. The VM stands still\n" +
			"while its memory is written; with --no-memory it goes on, and the checkpoint is what\n" +
			"the disks would be after a loss of power.",
		Example: "  lull checkpoint create web --name before-upgrade",
		Args:    argCount(1, 1, "the VM"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			return in.checkpointCreate(cmd.Context(), args[0], flags)
		}),
	}
	cmd.Flags().StringVar(&flags.name, "name", "", "`NAME` of the checkpoint (default: its ID)")
	cmd.Flags().BoolVar(&flags.noMemory, "no-memory", false, "keep the disks alone")
	return cmd
}

func (in *invocation) checkpointListCommand() *cobra.Command {
	var flags checkpointFlags
	cmd := &cobra.Command{
		Use:   "list [VM...]",
		Short: "Draw the trees of checkpoints",
		Args:  argCount(0, -1, ""),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			return in.checkpointList(cmd.Context(), args, flags)
		}),
	}
	cmd.Flags().BoolVar(&flags.recover, "recover", false, "bring to an end what was interrupted before")
	return cmd
}

func (in *invocation) checkpointApplyCommand() *cobra.Command {
	var flags checkpointFlags
	cmd := &cobra.Command{
		Use:   "apply VM CHECKPOINT",
		Short: "Take a VM back to a checkpoint, which stays as it is",
		Long: "Take a VM back to a checkpoint, by its name or its ID, as often as wanted. What the VM has\n" +
			"done since its newest checkpoint is lost with --discard; with --keep it is made a\n" +
			"checkpoint before. A VM that runs goes on in the same process of QEMU; libvirt starts its\n" +
			"domain anew, and displays and consoles are to be opened again.",
		Example: "  lull checkpoint apply web before-upgrade --keep",
		Args:    argCount(2, 2, "the VM or the checkpoint"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			if flags.keep == flags.discard {
				return withHint(usagef("checkpoint apply: what the VM has done since its newest checkpoint is neither kept nor given up"),
					"give --keep to make a checkpoint of it first, or --discard")
			}
			return in.checkpointApply(cmd.Context(), args[0], args[1], flags)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&flags.keep, "keep", false, "make a checkpoint of the VM as it is before")
	f.BoolVar(&flags.discard, "discard", false, "give up what the VM has done since its newest checkpoint")
	f.BoolVar(&flags.cold, "cold", false, "leave the memory away: the VM is reset and starts from its disks")
	return cmd
}

func (in *invocation) checkpointRevertCommand() *cobra.Command {
	var flags checkpointFlags
	cmd := &cobra.Command{
		Use:   "revert VM",
		Short: "Take a VM back to its newest checkpoint, and give up what it has done since",
		Args:  argCount(1, 1, "the VM"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			return in.checkpointApply(cmd.Context(), args[0], "", flags)
		}),
	}
	cmd.Flags().BoolVar(&flags.cold, "cold", false, "leave the memory away: the VM is reset and starts from its disks")
	return cmd
}

func (in *invocation) checkpointDeleteCommand() *cobra.Command {
	var flags checkpointFlags
	cmd := &cobra.Command{
		Use:   "delete VM CHECKPOINT",
		Short: "Delete a checkpoint; the VM and all others stay as they are",
		Long: "Delete a checkpoint. What rests upon it keeps what it shows, and a VM that runs goes on\n" +
			"meanwhile: images are merged beside it. Where more than one rests upon it, its images\n" +
			"stay until but one is left.",
		Args: argCount(2, 2, "the VM or the checkpoint"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			return in.checkpointWork(cmd.Context(), args[0], func(ctx context.Context, c snapshot.Checkpointer, vm string) error {
				return c.DeleteCheckpoints(ctx, vm, args[1], flags.subtree)
			})
		}),
	}
	cmd.Flags().BoolVar(&flags.subtree, "subtree", false, "delete all that were made upon it, too")
	return cmd
}

func (in *invocation) checkpointMergeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "merge VM",
		Short: "Delete all checkpoints of a VM, which stays as it is now",
		Args:  argCount(1, 1, "the VM"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			return in.checkpointWork(cmd.Context(), args[0], func(ctx context.Context, c snapshot.Checkpointer, vm string) error {
				return c.MergeCheckpoints(ctx, vm)
			})
		}),
	}
}

// checkpointStep hears what the host does.
func (in *invocation) checkpointStep(vm, step string) {
	if in.Checkpointing != nil {
		in.Checkpointing(vm, step)
	}
}

// oneVM finds the VM that an argument means, and its host.
func (in *invocation) oneVM(ctx context.Context, arg string) (cfg *config.Config, host snapshot.Host, name, vm string, err error) {
	if cfg, err = in.loadConfig(); err != nil {
		return nil, nil, "", "", err
	}
	hosts := in.openHosts(cfg)
	if cfg, err = in.discover(ctx, cfg, hosts); err != nil && len(cfg.Match(arg)) == 0 {
		return nil, nil, "", "", err
	}
	names, err := matchVM(cfg, arg)
	if err != nil {
		return nil, nil, "", "", err
	}
	if len(names) > 1 {
		return nil, nil, "", "", withHint(usagef("%s means several VMs", arg), "say which: %s", orList(names))
	}
	hostName, vm, _ := strings.Cut(names[0], "/")
	return cfg, hosts[hostName], names[0], vm, nil
}

// withCheckpoints does fn while nobody else works on the VM.
func (in *invocation) withCheckpoints(ctx context.Context, arg string, fn func(ctx context.Context, cfg *config.Config, c snapshot.Checkpointer, vm string) error) (name string, err error) {
	cfg, host, name, vm, err := in.oneVM(ctx, arg)
	if err != nil {
		return name, err
	}
	runner, err := in.runner(target{config: cfg}, nil, slog.LevelWarn)
	if err != nil {
		return name, err
	}
	return name, runner.Checkpoint(ctx, name, host, vm, func(ctx context.Context, c snapshot.Checkpointer) error {
		return fn(ctx, cfg, c, vm)
	})
}

// checkpointWork does fn, and shows the tree afterwards.
func (in *invocation) checkpointWork(ctx context.Context, arg string, fn func(ctx context.Context, c snapshot.Checkpointer, vm string) error) error {
	var after snapshot.Checkpoints
	name, err := in.withCheckpoints(ctx, arg, func(ctx context.Context, _ *config.Config, c snapshot.Checkpointer, vm string) (err error) {
		if err = fn(ctx, c, vm); err == nil {
			after, err = c.Checkpoints(ctx, vm)
		}
		return err
	})
	if err != nil || in.flags.quiet {
		return err
	}
	return in.showTrees([]checkpointTree{{Name: name, Checkpoints: after}})
}

func (in *invocation) checkpointCreate(ctx context.Context, arg string, flags checkpointFlags) error {
	var made snapshot.Checkpoint
	name, err := in.withCheckpoints(ctx, arg, func(ctx context.Context, cfg *config.Config, c snapshot.Checkpointer, vm string) (err error) {
		made, err = c.CreateCheckpoint(ctx, vm, snapshot.NewCheckpoint{Name: flags.name, Memory: !flags.noMemory, MaxDepth: cfg.Checkpoints.MaxDepth})
		return err
	})
	return in.toldOf("created", "checkpoint %s of %s was made\n", made, name, err)
}

// toldOf shows what was done with one checkpoint.
func (in *invocation) toldOf(did, sentence string, c snapshot.Checkpoint, vm string, err error) error {
	switch {
	case err != nil:
		return err
	case in.flags.json:
		return writeJSON(in.Stdout, map[string]any{did: c, "vm": vm})
	case in.flags.quiet:
		return nil
	}
	_, err = fmt.Fprintf(in.Stdout, sentence, called(c), vm)
	return err
}

// called is a checkpoint for people.
func called(c snapshot.Checkpoint) string {
	if c.Name == "" {
		return c.ID
	}
	return printable(c.Name) + " (" + c.ID + ")"
}

// checkpointApply applies a checkpoint; empty: the newest.
func (in *invocation) checkpointApply(ctx context.Context, arg, ref string, flags checkpointFlags) error {
	var applied snapshot.Checkpoint
	name, err := in.withCheckpoints(ctx, arg, func(ctx context.Context, cfg *config.Config, c snapshot.Checkpointer, vm string) (err error) {
		if ref == "" {
			if ref, err = newestOf(ctx, c, vm); err != nil {
				return err
			}
		}
		if flags.keep {
			kept, err := c.CreateCheckpoint(ctx, vm, snapshot.NewCheckpoint{Memory: !flags.cold, MaxDepth: cfg.Checkpoints.MaxDepth})
			if err != nil {
				return err
			}
			in.note("the VM as it was is checkpoint %s", kept.ID)
		}
		applied, err = c.ApplyCheckpoint(ctx, vm, ref, flags.cold)
		return err
	})
	return in.toldOf("applied", "checkpoint %s was applied to %s\n", applied, name, err)
}

// newestOf is the checkpoint that the VM went on from.
func newestOf(ctx context.Context, c snapshot.Checkpointer, vm string) (string, error) {
	if _, err := c.RecoverCheckpoints(ctx, vm); err != nil {
		return "", err
	}
	tree, err := c.Checkpoints(ctx, vm)
	if err != nil {
		return "", err
	}
	if tree.Newest != "" {
		return tree.Newest, nil
	}
	return "", withHint(fmt.Errorf("%s was not made upon a checkpoint: %w", vm, snapshot.ErrNoCheckpoint), "make one with `lull checkpoint create`")
}
