package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// An image beside which a delta lies is not the whole disk: its VM's last writes
// are in the delta.
func TestUnmergedDelta(t *testing.T) {
	for name, want := range map[string]bool{
		"disk.raw.lull-20261122T013000Z-0badf00d.delta":        true,
		"disk.raw.lull-20261122T013000Z-0badf00d.delta.merged": true,
		"disk.raw.lull-20261122T013000Z-0badf00d.delta.stamp":  false, // it holds no writes
		"other.raw.lull-20261122T013000Z-0badf00d.delta":       false,
		"disk.raw.lull-notes.txt":                              false,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := write(t, filepath.Join(dir, "disk.raw"), make([]byte, 4096))
			write(t, filepath.Join(dir, name), make([]byte, 512))
			link := filepath.Join(t.TempDir(), "link.raw")
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{path, link} {
				host := image.NewHost([]image.VM{{Name: "vm", Disks: []image.DiskSpec{{Path: p, Format: snapshot.FormatRaw}}}})
				_, err := host.Plan(t.Context(), "vm", "run")
				if errors.Is(err, snapshot.ErrMergePending) != want || !want && err != nil {
					t.Errorf("plan %s: %v, want it refused: %v", p, err, want)
				}
				var h interface{ Hint() string }
				if want && !errors.As(err, &h) {
					t.Errorf("%v does not say what to do", err)
				}
			}
		})
	}
}
