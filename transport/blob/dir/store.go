package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/lull-backup/lull/transport/blob"
)

const (
	tempFolder = ".tmp"
	fileMode   = 0o600
	folderMode = 0o700
)

// Store is a blob.Store in a folder. It is to be closed.
type Store struct {
	root *os.Root
	path string // absolute, for messages

	write func(*os.File, []byte) (int, error) // (*os.File).Write, but for tests

	mu      sync.Mutex
	durable map[string]bool // folders whose own entry was synced
}

// Make makes the folder for a store, and those above it. One that is there already
// is no error.
func Make(folder string) error {
	err := os.MkdirAll(folder, folderMode)
	if errors.Is(err, fs.ErrNotExist) { // as below /proc: nobody speaks of an object
		return blob.WithHint(fmt.Errorf("make folder: %w", err), "choose another place")
	}
	if err != nil {
		return hinted(fmt.Errorf("make folder %s: %w", folder, sentinel(err)))
	}
	return nil
}

// Open opens the store in folder, which must exist.
func Open(folder string) (*Store, error) {
	abs, err := filepath.Abs(folder)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	info, err := os.Stat(abs)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || (err == nil && !info.IsDir()) {
		return nil, blob.WithHint(fmt.Errorf("open store %s: %w", abs, blob.ErrNoBucket),
			"check the path, and that the disk is mounted there; `lull init` makes a new repository")
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, hinted(fmt.Errorf("open folder %s: %w", abs, sentinel(err)))
	}
	s := &Store{root: root, path: abs, write: (*os.File).Write, durable: map[string]bool{".": true}}
	if err := s.sweep(); err != nil {
		return nil, hinted(fmt.Errorf("clean folder %s: %w", abs, errors.Join(sentinel(err), root.Close())))
	}
	return s, nil
}

// Close lets the folder go.
func (s *Store) Close() error { return s.root.Close() }

func (s *Store) String() string { return s.path }

func (s *Store) Read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	data, err := s.read(ctx, name, off, length)
	if err != nil {
		return nil, s.failed("read", name, err)
	}
	return data, nil
}

func (s *Store) read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	info, err := s.stat(ctx, name)
	if err != nil {
		return nil, err
	}
	n, err := blob.CheckRange(info.Size(), off, length)
	if err != nil {
		return nil, err
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, n)
	if _, err := f.ReadAt(data, off); err != nil {
		if errors.Is(err, io.EOF) { // cut short by someone else, since stat
			err = blob.ErrRange
		}
		return nil, err
	}
	return data, nil
}

func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	info, err := s.stat(ctx, name)
	if err != nil {
		return blob.Info{}, s.failed("stat", name, err)
	}
	return blob.Info{Name: name, Size: info.Size(), Created: info.ModTime()}, nil
}

func (s *Store) stat(ctx context.Context, name string) (fs.FileInfo, error) {
	if err := begin(ctx, name); err != nil {
		return nil, err
	}
	info, err := s.root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		return nil, blob.ErrNotFound
	}
	return info, err
}

func (s *Store) Delete(ctx context.Context, name string) error {
	if err := begin(ctx, name); err != nil {
		return s.failed("delete", name, err)
	}
	info, err := s.stat(ctx, name)
	if err == nil && info.Mode().IsRegular() {
		if err = s.root.Remove(name); err == nil {
			err = s.syncFolder(path.Dir(name))
		}
	}
	if err = sentinel(err); err != nil && !errors.Is(err, blob.ErrNotFound) {
		return s.failed("delete", name, err)
	}
	return nil
}

func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	folder := "."
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		folder = prefix[:i]
		if blob.CheckName(folder) != nil {
			return nil // no object's name starts so
		}
	}
	var own error // fn's, to be returned as it is
	err := fs.WalkDir(s.root.FS(), folder, func(name string, d fs.DirEntry, err error) error {
		info, err := s.visit(ctx, name, prefix, d, err)
		if err != nil || info == nil {
			return err
		}
		own = fn(*info)
		return own
	})
	if own != nil {
		return own
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return s.failed("list", prefix, err)
	}
	return nil
}

// visit is what List tells of one entry of the walk: nothing, when it is no object.
func (s *Store) visit(ctx context.Context, name, prefix string, d fs.DirEntry, err error) (*blob.Info, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // not there, or gone meanwhile
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if name == "." {
		return nil, nil
	}
	folder := d.IsDir()
	switch {
	case folder && (blob.CheckName(name) != nil || !overlap(name+"/", prefix)):
		return nil, fs.SkipDir
	case folder, !d.Type().IsRegular(), !strings.HasPrefix(name, prefix), blob.CheckName(name) != nil:
		return nil, nil
	}
	info, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &blob.Info{Name: name, Size: info.Size(), Created: info.ModTime()}, nil
}

// overlap reports whether names can start with both.
func overlap(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

func (s *Store) failed(verb, name string, err error) error {
	return hinted(fmt.Errorf("%s %s: %w", verb, filepath.Join(s.path, name), sentinel(err)))
}

// hinted adds the next step where there is one.
func hinted(err error) error {
	switch {
	case errors.Is(err, syscall.EROFS):
		return blob.WithHint(err, "mount its file system for writing")
	case errors.Is(err, blob.ErrDenied):
		return blob.WithHint(err, "run lull as root, or as a user who may use the folder")
	case errors.Is(err, blob.ErrNoSpace):
		return blob.WithHint(err, "make room in its file system and run again")
	}
	return err
}

// sentinel adds the contract's word to an error of the file system, and takes the
// path out of it, which failed says.
func sentinel(err error) error {
	kinds := []struct{ is, as error }{
		{fs.ErrNotExist, blob.ErrNotFound}, {syscall.ENOTDIR, blob.ErrNotFound}, {fs.ErrExist, blob.ErrExists},
		{fs.ErrPermission, blob.ErrDenied}, {syscall.EROFS, blob.ErrDenied},
		{syscall.ENOSPC, blob.ErrNoSpace}, {syscall.EDQUOT, blob.ErrNoSpace},
	}
	for _, k := range kinds {
		if errors.Is(err, k.is) {
			var errno syscall.Errno
			if !errors.As(err, &errno) {
				return k.as
			}
			return &coded{k.as, errno}
		}
	}
	return err
}

// coded is an error in the contract's words, and the file system's code where that
// says more.
type coded struct {
	kind  error
	errno syscall.Errno
}

func (c *coded) Error() string {
	if c.errno == syscall.EROFS || c.errno == syscall.EDQUOT || c.errno == syscall.ENOTDIR {
		return c.kind.Error() + ": " + c.errno.Error()
	}
	return c.kind.Error()
}

func (c *coded) Unwrap() []error { return []error{c.kind, c.errno} }

func begin(ctx context.Context, name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	return ctx.Err()
}
