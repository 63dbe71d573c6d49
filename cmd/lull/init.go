package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/transport/repo"
)

func (in *invocation) initCommand() *cobra.Command {
	return in.addPlaceFlags(&cobra.Command{
		Use:   "init",
		Short: "Make a new repository",
		Long: "Make a new repository, in the folder that --repo names or in one of the\n" +
			"configuration, and protect it with a passphrase. The store is probed first, and\n" +
			"refused when it lacks what no repository can do without.\n\n" +
			"Nobody can read the repository without the passphrase: keep a copy elsewhere.",
		Example: "  lull init --repo /srv/backup\n  lull init --repository offsite",
		Args:    argCount(0, 0, ""),
		RunE:    in.run(func(cmd *cobra.Command, _ []string) error { return in.initRepository(cmd.Context()) }),
	})
}

func (in *invocation) initRepository(ctx context.Context) (err error) {
	t, err := in.target()
	if err != nil {
		return err
	}
	r := t.repository
	if err := checkFresh(r); err != nil {
		return fmt.Errorf("init %s: %w", r.Name, err)
	}
	secret, err := in.passphrase(ctx, r, true)
	if err != nil {
		return err
	}
	store, closer, err := in.openStore(ctx, r, true)
	if err != nil {
		return fmt.Errorf("init %s: %w", r.Name, err)
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	if err := in.probeNew(ctx, r, store); err != nil {
		return fmt.Errorf("init %s: %w", r.Name, err)
	}
	if t.config != nil {
		if differs := t.config.LockAgainstKeep(r.Name); differs != "" {
			in.warn("%s; %s", differs, hintLockDays)
		}
	}
	id, err := repo.Init(ctx, store, repo.InitOptions{Passphrase: secret, Cost: in.Cost})
	if err != nil {
		return fmt.Errorf("init %s: %w", r.Name, err)
	}
	if in.flags.json {
		return writeJSON(in.Stdout, map[string]string{"repository": r.Name, "location": store.String(), "id": id.String()})
	}
	if in.flags.quiet {
		return nil
	}
	_, err = fmt.Fprintf(in.Stdout, "repository %s is ready at %s\nkeep its passphrase somewhere else too: nobody can read it without\n", id, printable(store.String()))
	return err
}

// checkFresh refuses a folder with somebody's files in it. What an init that was
// cut short left is none, nor is lost+found, in the root of a new file system; and
// repo.Init knows a repository.
func checkFresh(r config.Repository) error {
	if r.Dir == "" {
		return nil
	}
	files, err := os.ReadDir(r.Dir)
	if os.IsNotExist(err) {
		return nil
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return withHint(plainPath(err), "choose a folder")
	}
	if err != nil {
		return noEntry(err)
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name()
	}
	if slices.Contains(names, "config") {
		return nil
	}
	for _, n := range names {
		if n != "lost+found" && n != "keys" && n != "probe" && n != ".tmp" {
			return withHint(fmt.Errorf("%s: folder is not empty", r.Dir), "choose a new folder")
		}
	}
	return nil
}
