package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
)

// The kinds of files, as their first line names them.
const (
	kindRun    = "lull-run"
	kindResult = "lull-result"
)

// version of both kinds. A larger one in a file is of a newer lull.
const version = 1

// save replaces the file at path, durably.
func (j *Journal) save(path, kind string, v any, limit int) error {
	data, err := durable.Encode(kind, version, v)
	if err != nil {
		return err
	}
	if len(data) > limit {
		return fmt.Errorf("%d bytes for %s, at most %d", len(data), path, limit)
	}
	temp := path + ".tmp"
	if err := j.files.write(temp, data); err != nil {
		return err
	}
	if err := j.files.rename(temp, path); err != nil {
		return err
	}
	return j.files.syncDir(filepath.Dir(path))
}

// load reads the file at path into v, and says whether there is one.
func load(path, kind string, v any, limit int) (found bool, err error) {
	data, err := durable.ReadFile(path, int64(limit))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, durable.ErrTooLong):
		return false, damaged(path, err)
	case err != nil:
		return false, err
	}
	if err := durable.Decode(kind, version, data, v); err != nil {
		return false, damaged(path, err)
	}
	return true, nil
}

// damaged says which file cannot be used, and what its loss means.
func damaged(path string, err error) error {
	return snapshot.WithHint(fmt.Errorf("%w %s: %w", ErrDamaged, path, err),
		"see that the VM runs on its own disk images with no delta beside them, then remove that file")
}

// files is what durable writing asks of a file system. Tests cut it off after
// any step.
type files interface {
	write(path string, data []byte) error // create, write, fsync
	rename(from, to string) error
	remove(path string) error
	syncDir(path string) error
}

type osFiles struct{}

func (osFiles) write(path string, data []byte) error { return durable.WriteFile(path, data) }
func (osFiles) rename(from, to string) error         { return os.Rename(from, to) }
func (osFiles) remove(path string) error             { return os.Remove(path) }
func (osFiles) syncDir(path string) error            { return durable.SyncFolder(path) }
