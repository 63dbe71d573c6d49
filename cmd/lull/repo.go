package main

import "github.com/spf13/cobra"

// repoCommand groups what looks at the store of a repository rather than into it.
func (in *invocation) repoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repo",
		Short: "Look at the store of a repository",
		Args:  subcommandOnly,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(in.probeCommand(), in.undeleteCommand(), in.policyCommand())
	return cmd
}
