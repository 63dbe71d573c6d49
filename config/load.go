package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/lull-backup/lull/snapshot"
)

// Load reads and checks a file, and looks at the files that it names: those that
// are missing or readable by anyone become warnings. A file that was read but
// cannot be used gives Errors.
func Load(path string) (*Config, error) {
	data, mode, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	p := &parser{file: path}
	c := p.parse(data)
	if len(p.problems) > 0 {
		return nil, p.errors()
	}
	if mode.Perm()&0o022 != 0 {
		p.warn(1, fmt.Sprintf("others may write this file (mode %04o)", mode.Perm()), "chmod go-w "+snapshot.ShellWord(path))
	}
	p.inspect(os.Stat)
	c.Warnings = p.sortedWarnings()
	return c, nil
}

func read(path string) ([]byte, fs.FileMode, error) {
	info, err := os.Stat(path) // before Open, which waits for ever on a pipe
	if err != nil {
		return nil, 0, withAdvice(err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, snapshot.WithHint(fmt.Errorf("%s is no regular file", path), "name the file itself with --config")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, withAdvice(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1)) // parse refuses the one byte more
	return data, info.Mode(), err
}

func withAdvice(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return snapshot.WithHint(err, "write one after the example in docs/configuration.md, or name another with --config")
	case errors.Is(err, fs.ErrPermission):
		return snapshot.WithHint(err, "run lull as root, or let this user read the file")
	}
	return err
}

// named is a file that the configuration names, to be looked at by Load.
type named struct {
	line   int
	path   string
	what   string // such as: passphrase_file of repository "main"
	secret bool
}

func (p *parser) inspect(stat func(string) (fs.FileInfo, error)) {
	for _, n := range p.named {
		info, err := stat(n.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			p.warn(n.line, n.what+" does not exist", "create "+n.path)
		case err != nil:
			p.warn(n.line, n.what+" cannot be looked at", "let this user reach "+n.path)
		case !info.Mode().IsRegular():
			p.warn(n.line, n.what+" is no regular file", "name a file")
		case n.secret && info.Mode().Perm()&0o004 != 0:
			p.warn(n.line, fmt.Sprintf("anyone may read the %s (mode %04o)", n.what, info.Mode().Perm()), "chmod 600 "+snapshot.ShellWord(n.path))
		}
	}
}
