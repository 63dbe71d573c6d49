package merge

import (
	"os"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

// disk is what a merge asks of the file system to change. Tests cut it off after
// any step.
type disk interface {
	// device is an open image to write to.
	device(f *os.File) layer.Device
	// replace puts a new file into the place of an old one, durably.
	replace(path string, data []byte) error
	// remove removes a file, durably.
	remove(path string) error
}

// osDisk is the file system itself.
type osDisk struct{}

func (osDisk) device(f *os.File) layer.Device { return f }

func (osDisk) replace(path string, data []byte) error {
	temp := path + ".tmp"
	err := durable.WriteFile(temp, data)
	if err == nil {
		err = durable.Rename(temp, path, true)
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}

func (osDisk) remove(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return durable.SyncFolder(filepath.Dir(path))
}
