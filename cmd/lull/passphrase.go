package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/lull-backup/lull/config"
)

// passphrase returns the secret of a repository: from --passphrase-file, else
// from the file that the configuration names, else from the environment, else
// from who sits at the terminal, twice when it is a new one. It never comes from
// the command line, which everybody on the machine can read.
func (in *invocation) passphrase(ctx context.Context, r config.Repository, isNew bool) ([]byte, error) {
	if in.flags.passphrase != "" {
		r.PassphraseFile = in.flags.passphrase
	}
	if r.PassphraseFile == "" && in.Env(config.PassphraseEnv) == "" {
		return in.askPassphrase(ctx, r.Name, isNew)
	}
	secret, err := r.Passphrase(in.Env)
	if err != nil {
		return nil, &marked{err, errUsage}
	}
	return secret, nil
}

func (in *invocation) askPassphrase(ctx context.Context, repository string, isNew bool) ([]byte, error) {
	if in.Ask == nil || in.unattended {
		return nil, withHint(usagef("passphrase for %s: none given", repository),
			"use --passphrase-file FILE or set $%s", config.PassphraseEnv)
	}
	first, err := in.Ask(ctx, fmt.Sprintf("Passphrase for %s: ", printable(repository)))
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	if len(first) == 0 {
		return nil, withHint(usagef("passphrase: empty"), "choose a long one")
	}
	if !isNew {
		return first, nil
	}
	again, err := in.Ask(ctx, "The same again: ")
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	if !bytes.Equal(first, again) {
		return nil, withHint(usagef("passphrase: the two differ"), "type the same passphrase twice")
	}
	return first, nil
}
