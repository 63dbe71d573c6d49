package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/transport/repo"
)

func (in *invocation) keyExportCommand() *cobra.Command {
	var to string
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:     "export LABEL",
		Short:   "Write the file of a key, for the host that is to use it",
		Long:    "Write the file of a key, for the host that is to use it with key_file. It is as safe as\nthe key's passphrase, without which it opens nothing.",
		Example: "  lull key export host1 --to host1.key",
		Args:    argCount(1, 1, "the key's label"),
	})
	cmd.Flags().StringVar(&to, "to", "", "`FILE` to make; it must not be there")
	cmd.RunE = in.run(func(cmd *cobra.Command, args []string) error {
		if to == "" {
			return withHint(usagef("key export: --to is missing"), "name the file to make")
		}
		return in.withKeys(cmd.Context(), func(r *repo.Repository) error {
			b, err := r.ExportKey(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("export key: %w", err)
			}
			if err := newSecretFile(to, b); err != nil {
				return fmt.Errorf("export key: %w", err)
			}
			return in.told(map[string]any{"label": args[0], "file": to}, "key %s is in %s", args[0], to)
		})
	})
	return cmd
}

func (in *invocation) keyPaperCommand() *cobra.Command {
	var to string
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "paper",
		Short: "Write the key in use as text to print and lock away",
		Long: "Write the key that opens the repository, an owner's or one that restores, as text to\n" +
			"print and lock away. With the text alone, no passphrase, everything can be read: give it\n" +
			"back with --paper-file. An owner's can make new keys too.",
		Example: "  lull key paper --to paper.txt\n  lull restore lab/web --to /srv/out --paper-file paper.txt",
		Args:    argCount(0, 0, ""),
	})
	cmd.Flags().StringVar(&to, "to", "", "`FILE` to make; it must not be there. Without it, the text goes to standard output")
	cmd.RunE = in.run(func(cmd *cobra.Command, _ []string) error {
		return in.withKeys(cmd.Context(), func(r *repo.Repository) error { return in.paper(r, to) })
	})
	return cmd
}

func (in *invocation) paper(r *repo.Repository, to string) error {
	lines, err := r.Paper()
	if err != nil {
		return fmt.Errorf("paper key: %w", err)
	}
	if in.flags.json && to == "" {
		return writeJSON(in.Stdout, map[string]string{"repository": r.ID().String(), "paper": lines})
	}
	text := fmt.Sprintf("lull paper key of the repository %s.\nWhoever has it and the store can read every backup. Keep it where only you get at it.\n"+
		"To use it, type the numbered lines into a file and give that to --paper-file.\n\n%s", r.ID(), lines)
	if to == "" {
		_, err := fmt.Fprint(in.Stdout, text)
		return err
	}
	if err := newSecretFile(to, []byte(text)); err != nil {
		return fmt.Errorf("paper key: %w", err)
	}
	return in.told(map[string]any{"repository": r.ID().String(), "file": to}, "the paper key is in %s: print it, then remove the file", to)
}

// newSecretFile makes a file that only its owner reads, durably.
func newSecretFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return withHint(plainPath(err), "name a file that is not there yet, in a folder that is")
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return durable.SyncFolder(filepath.Dir(path))
}
