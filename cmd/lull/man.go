package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand is for packagers: it writes a page for each command.
func (in *invocation) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages into a folder",
		Hidden: true,
		Args:   argCount(1, 1, "the folder"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("man: make folder: %w", plainPath(err))
			}
			// The date is $SOURCE_DATE_EPOCH where that is set.
			header := &doc.GenManHeader{Section: "1", Source: "lull " + in.Version, Manual: "lull"}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("man: write pages: %w", plainPath(err))
			}
			return nil
		}),
	}
}
