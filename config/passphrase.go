package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

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
		return nil, snapshot.WithHint(fmt.Errorf("passphrase in $%s is longer than %d bytes", PassphraseEnv, MaxPassphrase), "choose a shorter one")
	}
	if v == "" {
		return nil, snapshot.WithHint(fmt.Errorf("open repository %s: %w", r.Name, ErrNoPassphrase),
			"set passphrase_file in the configuration, or $"+PassphraseEnv)
	}
	return []byte(v), nil
}

// readSecret reads a little more than a passphrase may have. Without O_NONBLOCK
// the opening of a FIFO that nobody writes to would wait, and no signal would end it.
func readSecret(path string) (data []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(f, MaxPassphrase+3)) // and a line ending, and one more
		f.Close()
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = fmt.Errorf("%s: %w", path, pe.Err)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, snapshot.WithHint(err, "write the passphrase into it, or name the file that holds it")
	case errors.Is(err, syscall.EISDIR):
		return nil, snapshot.WithHint(err, "name the file that holds the passphrase")
	case errors.Is(err, fs.ErrPermission):
		return nil, snapshot.WithHint(err, "run lull as root, or let this user read the file")
	}
	return data, err
}

// ReadPassphrase reads a passphrase from a file: all of it but one line ending.
func ReadPassphrase(path string) ([]byte, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	data = bytes.TrimSuffix(data, []byte("\r"))
	switch {
	case len(data) == 0:
		return nil, snapshot.WithHint(fmt.Errorf("read passphrase: %s is empty", path), "write the passphrase into it, on one line")
	case len(data) > MaxPassphrase:
		return nil, snapshot.WithHint(fmt.Errorf("read passphrase: %s holds more than %d bytes", path, MaxPassphrase), "choose a shorter one, or check that this is the file")
	case bytes.ContainsAny(data, "\n\x00"):
		return nil, snapshot.WithHint(fmt.Errorf("read passphrase: %s holds more than one line of text", path), "leave the passphrase alone in it")
	}
	return data, nil
}
