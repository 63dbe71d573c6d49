package dir

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/blobtest"
)

func open(t *testing.T, folder string) *Store {
	t.Helper()
	s, err := Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStore(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, t.TempDir()) })
}

func create(t *testing.T, s *Store, name string) {
	t.Helper()
	if err := s.Create(t.Context(), name, []byte(name)); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, s *Store) (found []string) {
	t.Helper()
	err := s.List(t.Context(), "", func(i blob.Info) error {
		found = append(found, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func temps(t *testing.T, folder string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(folder, tempFolder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestModesAndNothingLeft(t *testing.T) {
	folder := t.TempDir()
	s := open(t, folder)
	create(t, s, "a/b/c")
	for name, want := range map[string]os.FileMode{"a": 0o700, "a/b": 0o700, "a/b/c": 0o600, tempFolder: 0o700} {
		info, err := os.Stat(filepath.Join(folder, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if err := s.Create(t.Context(), "a/b/c", nil); !errors.Is(err, blob.ErrExists) {
		t.Error(err)
	}
	if left := temps(t, folder); left != nil {
		t.Errorf("left: %v", left)
	}
}

func TestMissingFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{filepath.Join(t.TempDir(), "none"), file} {
		_, err := Open(folder)
		var hint interface{ Hint() string }
		if !errors.Is(err, blob.ErrNoBucket) || !errors.As(err, &hint) || !strings.Contains(err.Error(), folder) {
			t.Errorf("open %s: %v", folder, err)
		}
	}
	folder := filepath.Join(t.TempDir(), "deep", "new")
	if err := errors.Join(Make(folder), Make(folder)); err != nil {
		t.Fatal(err)
	}
	s := open(t, folder)
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "x", nil); !errors.Is(err, blob.ErrNoBucket) {
		t.Error(err)
	}
}

func TestFullDisk(t *testing.T) {
	folder := t.TempDir()
	s := open(t, folder)
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		calls := 0
		s.write = func(f *os.File, b []byte) (int, error) {
			if calls++; calls > 1 {
				return 0, &os.PathError{Op: "write", Path: f.Name(), Err: errno}
			}
			return f.Write(b)
		}
		err := s.Create(t.Context(), "packs/full", make([]byte, 3*writeSize))
		if !errors.Is(err, blob.ErrNoSpace) || !strings.Contains(err.Error(), filepath.Join(folder, "packs/full")) {
			t.Error(err)
		}
	}
	if left := append(temps(t, folder), names(t, s)...); left != nil {
		t.Errorf("left: %v", left)
	}
}

func TestCancelledWhileWriting(t *testing.T) {
	folder := t.TempDir()
	s := open(t, folder)
	ctx, cancel := context.WithCancel(t.Context())
	written := 0
	s.write = func(f *os.File, b []byte) (int, error) {
		cancel()
		written += len(b)
		return f.Write(b)
	}
	if err := s.Create(ctx, "a", make([]byte, 5*writeSize)); !errors.Is(err, context.Canceled) || written != writeSize {
		t.Errorf("%v after %d bytes", err, written)
	}
	if left := append(temps(t, folder), names(t, s)...); left != nil {
		t.Errorf("left: %v", left)
	}
}

func TestLinksLeadNowhere(t *testing.T) {
	outside, folder := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"file": filepath.Join(outside, "secret"), "folder": outside, "inner": "real"} {
		if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(folder, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, folder)
	create(t, s, "real")
	for _, name := range []string{"file", "folder/secret", "inner", "pipe"} {
		if b, err := s.Read(t.Context(), name, 0, -1); err == nil {
			t.Errorf("read %s: %q", name, b)
		}
	}
	if err := s.Create(t.Context(), "folder/new", nil); err == nil {
		t.Error("created an object outside")
	}
	if _, err := os.Stat(filepath.Join(outside, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if got := names(t, s); len(got) != 1 || got[0] != "real" {
		t.Errorf("listed: %v", got)
	}
}

func TestForeignFilesAreNotListed(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"lost+found", ".hidden", "Upper"} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name, "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, folder)
	create(t, s, "object")
	if got := names(t, s); len(got) != 1 || got[0] != "object" {
		t.Errorf("listed: %v", got)
	}
}

func TestStaleTemporaryFilesAreRemoved(t *testing.T) {
	folder := t.TempDir()
	s := open(t, folder)
	old := time.Now().Add(-2 * staleAge)
	var files []*os.File
	for range 3 {
		f, _, err := s.temp()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	dead, alive := files[0], files[1] // and a young one
	for _, f := range files[:2] {
		if err := os.Chtimes(f.Name(), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, folder)
	if _, err := os.Stat(dead.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead writer's file: %v", err)
	}
	if _, err := os.Stat(alive.Name()); err != nil {
		t.Errorf("a living writer's file: %v", err)
	}
	if n := len(temps(t, folder)); n != 2 {
		t.Errorf("%d files left, want 2", n)
	}
}

func TestTwoStoresOneFolder(t *testing.T) {
	folder := t.TempDir()
	a, b := open(t, folder), open(t, folder)
	create(t, a, "x/y")
	if err := b.Create(t.Context(), "x/y", nil); !errors.Is(err, blob.ErrExists) {
		t.Error(err)
	}
	create(t, b, "x/z")
	got, err := a.Read(t.Context(), "x/z", 0, -1)
	if err != nil || !bytes.Equal(got, []byte("x/z")) {
		t.Errorf("%q, %v", got, err)
	}
}
