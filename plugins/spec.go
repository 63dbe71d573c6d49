package plugins

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Grant is one thing that a plugin may do in the guest.
type Grant string

// The grants, as in the configuration.
const (
	GrantInfo      Grant = "info"
	GrantExec      Grant = "exec"
	GrantReadFile  Grant = "read-file"
	GrantWriteFile Grant = "write-file"
	// GrantFreeze is to freeze and thaw file systems, and to ask whether they
	// are frozen.
	GrantFreeze Grant = "freeze"
)

// Grants are all grants that there are.
func Grants() []Grant {
	return []Grant{GrantInfo, GrantExec, GrantReadFile, GrantWriteFile, GrantFreeze}
}

// Spec says which program to start and what it may do.
type Spec struct {
	Name string // for logs and failures
	Path string // absolute
	Args []string
	// SHA256 of the program in hexadecimal; empty: not checked. The check is
	// worth something only where nobody else can write to the program's folder.
	SHA256 string
	// Env is added to the small clean environment, as KEY=value.
	Env []string
	// Grants is what the plugin may do in the guest: nothing by default.
	Grants []Grant
	// Guarded refuses a program that others than root and this process's user may
	// replace: see CheckGuarded.
	Guarded bool
	// Runs are further programs of this host that the plugin runs, refused likewise.
	Runs []string
	// User that the plugin runs as, without further groups; empty: this process's.
	// Only root can start a plugin as another.
	User string
	// RuntimeDir is where the folders for sockets are made; empty: the system's
	// folder for temporary files. Its path must be short: with what is added
	// here, a socket's path may have 107 bytes.
	RuntimeDir string
}

// ErrUntrusted: the program is not the one that was configured.
var ErrUntrusted = errors.New("program does not match its SHA-256")

func (s Spec) check() error {
	if s.Name == "" {
		return errors.New("plugin without a name")
	}
	if !filepath.IsAbs(s.Path) {
		return fmt.Errorf("path %q is not absolute", s.Path)
	}
	if _, err := s.checksum(); err != nil {
		return err
	}
	if _, err := s.credential(); err != nil {
		return err
	}
	for _, g := range s.Grants {
		if !slices.Contains(Grants(), g) {
			return fmt.Errorf("grant %q is unknown: use %v", g, Grants())
		}
	}
	return nil
}

func (s Spec) checksum() ([]byte, error) {
	sum, err := hex.DecodeString(s.SHA256)
	if err != nil || len(sum) != 0 && len(sum) != 32 {
		return nil, errors.New("SHA-256 must be 64 hexadecimal digits")
	}
	return sum, nil
}
