package agent

import (
	"errors"
	"os"
	"path/filepath"
)

// staged is a file that is whole and durable, but not under its name yet.
type staged struct {
	f    *os.File // open: the lock on it is what a sweep spares it for
	path string
}

func stage(path string, data []byte) (s staged, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".lull-*.partial")
	if err != nil {
		return s, err
	}
	_ = lockPartial(f) // a file system without locks does without
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	s = staged{f, path}
	if err != nil {
		return staged{}, errors.Join(err, s.abort())
	}
	return s, nil
}

func (s staged) commit() error {
	if err := os.Rename(s.f.Name(), s.path); err != nil {
		return err
	}
	return s.f.Close()
}

// abort removes the file, unless it has its name.
func (s staged) abort() error {
	s.f.Close() // what it could not write does not matter
	if err := os.Remove(s.f.Name()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
