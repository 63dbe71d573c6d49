package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/config"
)

// errNoConfig: there is no configuration file.
var errNoConfig = errors.New("no such file")

// loadConfig reads the configuration and tells its warnings.
func (in *invocation) loadConfig() (*config.Config, error) {
	cfg, err := config.Load(in.flags.config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = withHint(fmt.Errorf("no configuration: %s: %w", in.flags.config, errNoConfig),
			"write it, see docs/configuration.md, or name another with --config")
		return nil, &marked{err, errUsage}
	case err != nil:
		return nil, &marked{err, errUsage}
	}
	for _, w := range cfg.Warnings {
		in.warn("%s", w)
	}
	return cfg, nil
}

// orElse tells a user without a configuration how to do without one.
func orElse(err error, hint string) error {
	if errors.Is(err, errNoConfig) {
		return withHint(err, "write it, name another with --config, or do without: %s", hint)
	}
	return err
}

// target is the repository that a command works on, and the configuration where
// there is one.
type target struct {
	repository config.Repository
	config     *config.Config // nil with --repo
}

// target finds the one repository of a command: --repo, else --repository, else
// the only one of the configuration.
func (in *invocation) target() (target, error) {
	if in.flags.repoDir != "" {
		return in.folder()
	}
	cfg, err := in.loadConfig()
	if err != nil {
		return target{}, orElse(err, "--repo DIR")
	}
	r, err := in.chooseRepository(cfg)
	return target{repository: r, config: cfg}, err
}

// folder is the repository that --repo names.
func (in *invocation) folder() (target, error) {
	dir, err := filepath.Abs(in.flags.repoDir)
	if err != nil {
		return target{}, fmt.Errorf("--repo %s: %w", in.flags.repoDir, err)
	}
	return target{repository: config.Repository{Name: in.flags.repoDir, Dir: dir}}, nil
}

func (in *invocation) chooseRepository(cfg *config.Config) (config.Repository, error) {
	if name := in.flags.repository; name != "" {
		r, ok := cfg.Repository(name)
		if !ok {
			return r, withHint(usagef("no repository %q in %s", name, cfg.Path), "use %s", alternatives(cfg))
		}
		return r, nil
	}
	if len(cfg.Repositories) == 1 {
		return cfg.Repositories[0], nil
	}
	return config.Repository{}, withHint(usagef("%s has %d repositories", cfg.Path, len(cfg.Repositories)),
		"choose one with --repository %s", alternatives(cfg))
}

// alternatives are the names of all repositories: a, b or c.
func alternatives(cfg *config.Config) string {
	var names []string
	for _, r := range cfg.Repositories {
		names = append(names, r.Name)
	}
	return orList(names)
}

// orList is "a, b or c".
func orList(names []string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " or " + names[n-1]
	}
	return strings.Join(names, "")
}

// stateDir is where the journal lives: the configuration's folder, else the one
// that systemd gives, else the usual one of root or of the user.
func (in *invocation) stateDir(cfg *config.Config) (string, error) {
	if cfg != nil {
		return cfg.Agent.StateDir, nil
	}
	return in.ownDir("STATE_DIRECTORY", config.DefaultStateDir, "XDG_STATE_HOME", ".local/state")
}

// cacheDir is where index caches live; they may be lost at any time.
func (in *invocation) cacheDir(cfg *config.Config) (string, error) {
	if cfg != nil {
		return cfg.Agent.CacheDir, nil
	}
	return in.ownDir("CACHE_DIRECTORY", config.DefaultCacheDir, "XDG_CACHE_HOME", ".cache")
}

func (in *invocation) ownDir(systemd, root, xdg, home string) (string, error) {
	if dir := in.Env(systemd); dir != "" {
		dir, _, _ = strings.Cut(dir, ":")
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return root, nil
	}
	if dir := in.Env(xdg); filepath.IsAbs(dir) {
		return filepath.Join(dir, "lull"), nil
	}
	if dir := in.Env("HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, home, "lull"), nil
	}
	return "", withHint(usagef("no place for lull's own files"), "set $%s or $HOME", systemd)
}

// openJournal opens the state folder.
func (in *invocation) openJournal(cfg *config.Config) (*journal.Journal, error) {
	dir, err := in.stateDir(cfg)
	if err != nil {
		return nil, err
	}
	j, err := journal.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", plainPath(err))
	}
	return j, nil
}
