package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
)

// A tree is kept in a file: one line of kind, version and SHA-256 of the rest, then
// JSON. It is replaced whole: temporary file, fsync, rename, fsync of the folder.

// kind and version are the first words of a file; a newer lull counts on.
const (
	kind    = "lull-checkpoints"
	version = 1
)

// maxFile bounds a file, in bytes: a node with its hardware takes some 20 KiB.
const maxFile = 64 << 20

// Load reads the tree of a VM. No file is a tree without checkpoints. ErrCorrupt: there is
// one, and it cannot be read.
func Load(path, vm string) (Tree, error) {
	t, err := Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Tree{VM: vm}, nil
	}
	if err == nil && t.VM != vm {
		err = fmt.Errorf("it is of VM %q: %w", t.VM, snapshot.ErrCorrupt)
	}
	if err != nil {
		return Tree{}, snapshot.WithHint(fmt.Errorf("read tree of checkpoints %s: %w", path, err),
			"bring the file back from a copy, and start nothing from the images beside the VM's disks meanwhile")
	}
	return t, nil
}

// Read reads a tree, whichever VM it is of. fs.ErrNotExist: there is none.
func Read(path string) (t Tree, err error) {
	b, err := durable.ReadFile(path, maxFile)
	if errors.Is(err, durable.ErrTooLong) {
		err = fmt.Errorf("%w: %w", snapshot.ErrCorrupt, err)
	}
	if err == nil {
		err = decode(b, &t)
	}
	return t, err
}

func decode(b []byte, t *Tree) error {
	err := durable.Decode(kind, version, b, t)
	if errors.Is(err, durable.ErrVersion) {
		return fmt.Errorf("%w: %w", snapshot.ErrUnsupported, err)
	}
	if err == nil {
		err = t.Check()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", snapshot.ErrCorrupt, err)
	}
	return nil
}

// Save replaces the file of a tree. On return it is durable.
func Save(path string, t Tree) error {
	err := t.Check()
	if err == nil {
		err = replace(path, t)
	}
	if err != nil {
		return fmt.Errorf("write tree of checkpoints: %w", err)
	}
	return nil
}

func replace(path string, t Tree) error {
	text, err := durable.Encode(kind, version, t)
	if err != nil {
		return err
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	temp := path + ".tmp" // whoever changes the tree holds the VM's lock
	if err := durable.WriteFile(temp, text); err != nil {
		return err
	}
	return durable.Rename(temp, path, true)
}

// makeDir makes a folder and makes it durable.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return durable.SyncFolder(filepath.Dir(dir))
}
