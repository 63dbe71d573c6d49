package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/config"
)

// rootCommand builds the whole command tree for one invocation.
func (in *invocation) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "lull",
		Short: "Back up virtual machines while they run",
		Long: "lull freezes the disks of a virtual machine for a few milliseconds, lets it go on,\n" +
			"and stores the frozen disks deduplicated, compressed and encrypted.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          subcommandOnly,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help"}) // --help serves
	in.addGlobalFlags(root)
	root.AddCommand(
		in.initCommand(), in.vmsCommand(), in.backupCommand(), in.pointsCommand(),
		in.restoreCommand(), in.checkCommand(), in.copyCommand(), in.statsCommand(), in.agentCommand(), in.statusCommand(),
		in.forgetCommand(), in.holdCommand(), in.releaseCommand(), in.pruneCommand(),
		in.checkpointCommand(), in.chainCommand(), in.keyCommand(), in.repoCommand(), in.lockCommand(), in.doctorCommand(), in.recoverCommand(),
		in.pluginCommand(), in.configCommand(), in.versionCommand(), in.completionCommand(),
		in.manCommand(), in.pluginServeCommand(), in.deadManCommand(),
	)
	return root
}

func (in *invocation) addGlobalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&in.flags.config, "config", config.DefaultPath, "configuration `FILE`")
	f.StringVar(&in.flags.repository, "repository", "", "`NAME` of a repository of the configuration")
	// The only error is that there is no such flag.
	_ = root.RegisterFlagCompletionFunc("repository", in.completeRepositories)
	f.BoolVar(&in.flags.json, "json", false, "write JSON to standard output")
	f.BoolVar(&in.flags.quiet, "quiet", false, "write nothing but errors, and the tables of commands that show one")
}

// addRepositoryFlags adds what names a repository without any configuration, and the key
// that opens it.
func (in *invocation) addRepositoryFlags(cmd *cobra.Command) *cobra.Command {
	in.addKeyFlags(cmd)
	return in.addPlaceFlags(cmd)
}

// addPlaceFlags adds what names a repository without any configuration.
func (in *invocation) addPlaceFlags(cmd *cobra.Command) *cobra.Command {
	f := cmd.Flags()
	f.StringVar(&in.flags.repoDir, "repo", "", "repository folder `DIR`, without any configuration")
	f.StringVar(&in.flags.passphrase, "passphrase-file", "", "`FILE` that holds the repository's passphrase")
	return cmd
}

// work is a command's own part, called once its arguments are known to be right.
type work func(cmd *cobra.Command, args []string) error

// run marks the line between mistakes of usage, which cobra reports, and errors
// of the work itself.
func (in *invocation) run(fn work) work {
	return func(cmd *cobra.Command, args []string) error {
		in.started = true
		if err := noEmptyFlag(cmd); err != nil {
			return err
		}
		if in.flags.repoDir != "" && in.flags.repository != "" {
			return usagef("%s: --repo and --repository exclude each other", cmd.CommandPath())
		}
		return agent.Interrupted(cmd.Context(), fn(cmd, args))
	}
}

// noEmptyFlag refuses --repo "" and its like: what a script means by an unset
// variable is anything but the default.
func noEmptyFlag(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if err == nil && f.Value.Type() == "string" && f.Value.String() == "" {
			err = withHint(usagef("%s: --%s is empty", strings.TrimPrefix(cmd.CommandPath(), "lull "), f.Name), "give it a value, or leave it out")
		}
	})
	return err
}

// asUsage makes an error of cobra's a usage error of one line.
func asUsage(cmd *cobra.Command, err error) error {
	first, _, _ := strings.Cut(err.Error(), "\n")
	path := "lull"
	if cmd != nil {
		path = cmd.CommandPath()
	}
	if name := strings.TrimPrefix(path, "lull "); name != path {
		first = name + ": " + first
	}
	if hint := hintOf(err); hint != "" {
		return withHint(usagef("%s", first), "%s", hint)
	}
	return withHint(usagef("%s", first), "see `%s --help`", path)
}

// subcommandOnly refuses the argument that is no command and names the nearest.
func subcommandOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", args[0])
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return withHint(err, "did you mean `%s %s`?", cmd.CommandPath(), near[0])
	}
	return err
}

// argCount allows between least and most arguments; most < 0 is any number.
func argCount(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fmt.Errorf("%s is missing", what)
		case most == 0 && len(args) > 0:
			return fmt.Errorf("unexpected argument %q", args[0])
		case most >= 0 && len(args) > most:
			return fmt.Errorf("unexpected argument %q after %s", args[most], what)
		}
		return nil
	}
}
