package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/transport/repo"
)

// keyFlags say with which key a repository is opened, beside its passphrase.
type keyFlags struct {
	label, file, paper string
}

func (in *invocation) addKeyFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&in.flags.key.label, "key", "", "`LABEL` of the key that the passphrase is of")
	f.StringVar(&in.flags.key.file, "key-file", "", "key `FILE` that this host keeps")
	f.StringVar(&in.flags.key.paper, "paper-file", "", "`FILE` that holds a paper key, instead of any passphrase")
}

// maxKeyFile bounds key files and paper keys, in bytes.
const maxKeyFile = 64 << 10

// openOptions say how a repository is opened: with which key, and what is built on.
func (in *invocation) openOptions(ctx context.Context, t target) (o repo.OpenOptions, err error) {
	r, f := t.repository, in.flags.key
	if f.label != "" {
		r.Key = f.label
	}
	if f.file != "" {
		r.KeyFile = f.file
	}
	if r.KeyFile != "" {
		if o.KeyFile, err = readKeyFile(r.KeyFile); err != nil {
			return o, err
		}
	}
	if o.Cache, err = in.cacheDir(t.config); err != nil {
		return o, err
	}
	if o.Compression, err = in.compression(r); err != nil {
		return o, err
	}
	o.Padding = r.Padding
	o.Label, o.Domain = r.Key, repo.Domain{Own: r.Deduplicate.Own, Trusted: r.Deduplicate.Trusted}
	if f.paper != "" {
		o.Paper, err = readKeyFile(f.paper)
		return o, err
	}
	o.Passphrase, err = in.passphrase(ctx, r, false)
	return o, err
}

func readKeyFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxKeyFile) {
		return nil, usagef("%s: no key file", path)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, &marked{withHint(plainPath(err), "name the file that `lull key` has written"), errUsage}
	}
	return b, nil
}

func (in *invocation) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "List, make, remove and rotate the keys of a repository",
		Long: "A key has one role or more. backup: deduplicate and write, but read nothing that is\n" +
			"stored. restore: read. maintain: forget and prune, and read no disk data. owner: all of\n" +
			"that, and make and remove keys. A new repository has one key, of an owner.",
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(in.keyListCommand(), in.keyAddCommand(), in.keyRemoveCommand(),
		in.keyRotateCommand(), in.keyExportCommand(), in.keyPaperCommand())
	return cmd
}

// withKeys opens the repository of the command line for the time of fn.
func (in *invocation) withKeys(ctx context.Context, fn func(*repo.Repository) error) error {
	t, err := in.target()
	if err != nil {
		return err
	}
	return in.withRepository(ctx, t, fn)
}

func (in *invocation) keyListCommand() *cobra.Command {
	return in.addRepositoryFlags(&cobra.Command{
		Use:   "list",
		Short: "List the keys of a repository, and those that were removed",
		Args:  argCount(0, 0, ""),
		RunE: in.run(func(cmd *cobra.Command, _ []string) error {
			return in.withKeys(cmd.Context(), func(r *repo.Repository) error { return in.listKeys(cmd.Context(), r) })
		}),
	})
}

func (in *invocation) listKeys(ctx context.Context, r *repo.Repository) error {
	keys, damaged := r.Keys(ctx)
	if damaged != nil && !errors.Is(damaged, repo.ErrCorrupt) {
		return fmt.Errorf("list keys: %w", damaged)
	}
	if in.flags.json {
		return errors.Join(writeJSON(in.Stdout, map[string][]repo.Key{"keys": append([]repo.Key{}, keys...)}), damaged)
	}
	t := newTable("LABEL", "ROLES", "MADE", "STATE")
	for _, k := range keys {
		t.add(k.Label, k.Roles.String(), moment(k.Created), keyState(k))
	}
	return errors.Join(t.write(in.Stdout), damaged)
}

func keyState(k repo.Key) string {
	switch {
	case !k.Removed.IsZero():
		return "removed " + moment(k.Removed)
	case k.This:
		return "in use here"
	}
	return ""
}

// told writes what was done: one line, or JSON.
func (in *invocation) told(doc map[string]any, format string, args ...any) error {
	if in.flags.json {
		return writeJSON(in.Stdout, doc)
	}
	if in.flags.quiet {
		return nil
	}
	_, err := fmt.Fprintln(in.Stdout, printable(fmt.Sprintf(format, args...)))
	return err
}

func (in *invocation) keyRemoveCommand() *cobra.Command {
	return in.addRepositoryFlags(&cobra.Command{
		Use:   "remove LABEL",
		Short: "Remove a key: what it signs from now on is refused",
		Long: "Remove a key. What it wrote stays good; what it signs from now on is refused.\n" +
			"Where the key's file is gone, it is found by what it has signed; where several keys had\n" +
			"the label, give the signer, which `lull forget --all --dry-run --signed-by LABEL` names.\n" +
			"What it could read, whoever has a copy of its file can read still: `lull key rotate`\n" +
			"keeps what comes later from it. An owner's key was all there is to know: when one was\n" +
			"stolen, copy the repository into a new one with `lull copy`. The key is removed, too, where\n" +
			"the store does not let its file be deleted, as under the policy of the role maintain.",
		Args: argCount(1, 1, "the key's label"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			return in.withKeys(cmd.Context(), func(r *repo.Repository) error {
				k, err := r.RemoveKey(cmd.Context(), args[0])
				if err != nil {
					return fmt.Errorf("remove key: %w", err)
				}
				next := ""
				if k.Roles.Has(repo.RoleRestore | repo.RoleMaintain) {
					next = "; run lull key rotate to keep from it what comes later"
				}
				if k.Kept {
					next = "; its file stays, as the store keeps it locked or does not let this host delete it" + next
				}
				if k.Unlisted > 0 {
					in.warn("%s that it had signed have no room in the record of its removal, and are refused: the newest ones", count(k.Unlisted, "object"))
				}
				return in.told(map[string]any{"removed": k.Label, "kept": k.Kept}, "key %s is removed%s", k.Label, next)
			})
		}),
	})
}

func (in *invocation) keyRotateCommand() *cobra.Command {
	return in.addRepositoryFlags(&cobra.Command{
		Use:   "rotate",
		Short: "Seal what comes later to new keys, which removed keys do not get",
		Long: "Make new keys that everything is sealed to from now on. All keys that may read and were\n" +
			"not removed get them by themselves, without their passphrases. What is stored stays as it is.",
		Args: argCount(0, 0, ""),
		RunE: in.run(func(cmd *cobra.Command, _ []string) error {
			return in.withKeys(cmd.Context(), func(r *repo.Repository) error {
				made, err := r.RotateKeys(cmd.Context())
				if err != nil {
					return err
				}
				return in.told(map[string]any{"epoch": made.Epoch, "readers": made.Readers},
					"keys of epoch %d are in use from now on; what comes later can be read with %s, and with no other key; restart lull agent where it runs",
					made.Epoch, strings.Join(made.Readers, ", "))
			})
		}),
	})
}

func (in *invocation) keyAddCommand() *cobra.Command {
	var roles, file string
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:     "add LABEL",
		Short:   "Make a key with a passphrase of its own",
		Example: "  lull key add host1 --role backup --new-passphrase-file host1.secret\n  lull key add office --role restore",
		Args:    argCount(1, 1, "the key's label"),
	})
	cmd.Flags().StringVar(&roles, "role", "", "`ROLES`: backup, restore, maintain, owner, with commas between them")
	cmd.Flags().StringVar(&file, "new-passphrase-file", "", "`FILE` that holds the new key's passphrase")
	cmd.RunE = in.run(func(cmd *cobra.Command, args []string) error {
		if roles == "" {
			return withHint(usagef("key add: --role is missing"), "choose backup, restore, maintain or owner")
		}
		set, err := repo.ParseRoles(roles)
		if err != nil {
			return withHint(&marked{fmt.Errorf("key add: %w", err), errUsage}, "choose backup, restore, maintain or owner")
		}
		return in.withKeys(cmd.Context(), func(r *repo.Repository) error {
			return in.addKey(cmd.Context(), r, repo.NewKey{Label: args[0], Roles: set, Cost: in.Cost}, file)
		})
	})
	return cmd
}

func (in *invocation) addKey(ctx context.Context, r *repo.Repository, n repo.NewKey, file string) (err error) {
	if file != "" {
		if n.Passphrase, err = config.ReadPassphrase(file); err != nil {
			return &marked{err, errUsage}
		}
	} else if n.Passphrase, err = in.askPassphrase(ctx, "key "+n.Label, true); err != nil {
		return withHint(err, "use --new-passphrase-file FILE")
	}
	k, err := r.AddKey(ctx, n)
	if err != nil {
		return fmt.Errorf("add key: %w", err)
	}
	return in.told(map[string]any{"label": k.Label, "roles": k.Roles.String(), "created": k.Created.Format(time.RFC3339)},
		"key %s may %s", k.Label, k.Roles)
}
