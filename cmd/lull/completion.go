package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
)

func (in *invocation) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "completion {bash|zsh|fish}",
		Short:     "Write a script that completes lull's commands in a shell",
		Example:   "  lull completion bash > /etc/bash_completion.d/lull",
		Args:      oneOf("shell", "bash", "zsh", "fish"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(in.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(in.Stdout)
			default:
				return root.GenFishCompletion(in.Stdout, true)
			}
		}),
	}
}

// oneOf allows exactly one argument out of a list.
func oneOf(what string, allowed ...string) cobra.PositionalArgs {
	count := argCount(1, 1, "the "+what)
	return func(cmd *cobra.Command, args []string) error {
		if err := count(cmd, args); err != nil {
			return err
		}
		for _, a := range allowed {
			if a == args[0] {
				return nil
			}
		}
		return withHint(fmt.Errorf("unknown %s %q", what, args[0]), "use %s", orList(allowed))
	}
}

// completeVMs offers the VMs of the configuration.
func (in *invocation) completeVMs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	cfg, err := config.Load(in.flags.config)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return cfg.VMs(), cobra.ShellCompDirectiveNoFileComp
}

// completeRepositories offers the repositories of the configuration.
func (in *invocation) completeRepositories(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	cfg, err := config.Load(in.flags.config)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, r := range cfg.Repositories {
		names = append(names, r.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
