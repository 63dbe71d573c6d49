package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lull-backup/lull/snapshot"
)

// PassphraseEnv is the variable that holds the passphrase of repositories
// without a passphrase_file.
const PassphraseEnv = "LULL_PASSPHRASE"

// MaxPassphrase bounds a passphrase, in bytes.
const MaxPassphrase = 4096

// ErrNoPassphrase: neither file nor environment holds one. A command with a
// terminal asks for it.
var ErrNoPassphrase = errors.New("no passphrase")

// Passphrase reads the repository's passphrase: from its file where it has one,
// else from the environment.
func (r Repository) Passphrase(getenv func(string) string) ([]byte, error) {
	if r.PassphraseFile != "" {
		return ReadPassphrase(r.PassphraseFile)
	}
	v := getenv(PassphraseEnv)
	if len(v) > MaxPassphrase {
		return nil, fmt.Errorf("passphrase in $%s is longer than %d bytes", PassphraseEnv, MaxPassphrase)
	}
	if v == "" {
		return nil, snapshot.WithHint(fmt.Errorf("open repository %s: %w", r.Name, ErrNoPassphrase),
			"set passphrase_file in the configuration, or $"+PassphraseEnv)
	}
	return []byte(v), nil
}

// ReadPassphrase reads a passphrase from a file: all of it but one line ending.
func ReadPassphrase(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxPassphrase+3)) // and a line ending, and one more
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	data = bytes.TrimSuffix(data, []byte("\r"))
	switch {
	case len(data) == 0:
		return nil, snapshot.WithHint(fmt.Errorf("read passphrase: %s is empty", path), "write the passphrase into it, on one line")
	case len(data) > MaxPassphrase:
		return nil, fmt.Errorf("read passphrase: %s holds more than %d bytes", path, MaxPassphrase)
	case bytes.ContainsAny(data, "\n\x00"):
		return nil, snapshot.WithHint(fmt.Errorf("read passphrase: %s holds more than one line of text", path), "leave the passphrase alone in it")
	}
	return data, nil
}
