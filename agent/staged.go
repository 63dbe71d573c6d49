package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/wipe"
)

// staged is a file that is whole and durable, but not under its name yet.
type staged struct {
	f         *os.File // open: the lock on it is what a sweep spares it for
	path      string
	overwrite bool // it may replace a file that is there
	wipe      bool // it is overwritten where it is given up
}

// stage makes such a file of what write writes into it.
func (r *restore) stage(path string, write func(io.Writer) error) (s staged, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".lull-*.partial")
	if err != nil {
		return s, err
	}
	_ = lockPartial(f) // a file system without locks does without
	if err = write(f); err == nil {
		err = f.Sync()
	}
	s = staged{f, path, r.Overwrite, r.Wipe}
	if err != nil {
		return staged{}, errors.Join(err, s.abort())
	}
	return s, nil
}

// stageBytes is stage of what is in memory already.
func (r *restore) stageBytes(path string, data []byte) (staged, error) {
	return r.stage(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// commit gives the file its name, durably.
func (s staged) commit() error {
	if err := durable.Rename(s.f.Name(), s.path, s.overwrite); err != nil {
		return err
	}
	return s.f.Close()
}

// abort removes the file, unless it has its name.
func (s staged) abort() error {
	if s.wipe {
		if err := wipe.Remove(context.Background(), s.f.Name(), wipe.Sparse); err != nil { // whatever ended the restore
			return err
		}
	}
	s.f.Close() // what it could not write does not matter
	if err := os.Remove(s.f.Name()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
