package repo

import (
	"context"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
)

// nameSet is a set of names on disk: what is in memory is bounded, however many there
// are.
type nameSet struct {
	files *index.Index
	names *index.Session
}

func newNameSet() (*nameSet, error) {
	x, err := index.Open("")
	if err != nil {
		return nil, err
	}
	return &nameSet{files: x, names: x.Session()}, nil
}

func (s *nameSet) add(ctx context.Context, name block.Name) error {
	return s.names.Insert(ctx, name, index.Location{SegmentLength: 1, BlockLength: 1})
}

func (s *nameSet) has(name block.Name) (bool, error) {
	_, ok, err := s.names.Lookup(name)
	return ok, err
}

func (s *nameSet) close() error {
	err := s.names.Close()
	if e := s.files.Close(); err == nil {
		err = e
	}
	return err
}
