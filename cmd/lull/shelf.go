package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo"
)

// repository is an open repository and the store that it lies in.
type repository struct {
	*repo.Repository
	store io.Closer
}

// Close closes both.
func (r *repository) Close() error {
	if err := errors.Join(r.Repository.Close(), r.store.Close()); err != nil {
		return fmt.Errorf("close repository: %w", err)
	}
	return nil
}

// openRepository opens the repository of a target. The caller closes it.
func (in *invocation) openRepository(ctx context.Context, t target) (*repository, error) {
	if err := checkFolder(t.repository); err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	o, err := in.openOptions(ctx, t)
	if err != nil {
		return nil, err
	}
	store, closer, err := in.openStore(ctx, t.repository, false)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", t.repository.Name, err)
	}
	r, err := repo.Open(ctx, store, o)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", t.repository.Name, errors.Join(err, closer.Close()))
	}
	return &repository{r, closer}, nil
}

// checkFolder says of a folder that is not there what is plain to see, before
// anybody is asked for a passphrase.
func checkFolder(r config.Repository) error {
	if r.Dir == "" {
		return nil
	}
	info, err := os.Stat(r.Dir)
	switch {
	case os.IsNotExist(err):
		return &marked{fmt.Errorf("%s: no such folder", r.Dir), repo.ErrNoRepository}
	case err != nil:
		return noEntry(err)
	case !info.IsDir():
		return &marked{fmt.Errorf("%s: not a folder", r.Dir), repo.ErrNoRepository}
	}
	return nil
}

// noEntry is err of a repository's folder. One that this user may not enter is a
// store that says no.
func noEntry(err error) error {
	err = plainPath(err)
	if errors.Is(err, fs.ErrPermission) {
		return withHint(&marked{err, blob.ErrDenied}, "run lull as root, or as a user who may use the folder")
	}
	return err
}

// withRepository opens the target's repository for the time of fn.
func (in *invocation) withRepository(ctx context.Context, t target, fn func(*repo.Repository) error) (err error) {
	r, err := in.openRepository(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return fn(r.Repository)
}

// shelf keeps the repositories that an invocation has opened, and the errors of
// those that would not open, so that each is tried once.
type shelf struct {
	in     *invocation
	opened map[string]shelved
}

type shelved struct {
	repository *repository
	err        error
}

func (in *invocation) newShelf() *shelf { return &shelf{in: in, opened: map[string]shelved{}} }

func (s *shelf) open(ctx context.Context, t target) (*repository, error) {
	got, ok := s.opened[t.repository.Name]
	if !ok {
		got.repository, got.err = s.in.openRepository(ctx, t)
		s.opened[t.repository.Name] = got
	}
	return got.repository, got.err
}

func (s *shelf) close() {
	for name, got := range s.opened {
		if got.repository == nil {
			continue
		}
		if err := got.repository.Close(); err != nil {
			s.in.fail(fmt.Errorf("%s: %w", name, err))
		}
	}
}
