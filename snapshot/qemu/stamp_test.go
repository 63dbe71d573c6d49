package qemu

import (
	"errors"
	"os"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// Who may write to the folder may put links in the places of lull's small files.
func TestStampLink(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(from, to string) error{"symlink": os.Symlink, "hard link": os.Link} {
		i := images{t, t.TempDir()}
		target := i.raw("target")
		d := snapshot.DiskPlan{Disk: snapshot.Disk{Path: target}, Delta: i.at("delta")}
		must(t, put(target, d.Delta+stampSuffix))
		must(t, put(target, d.Delta+anchorSuffix))
		_, readErr := readStamp(d)
		for what, err := range map[string]error{"make": makeStamp(d), "write": noteFrozen(d, true), "note": note(d, stampCommit), "read": readErr,
			"anchor": deltaFile{path: d.Delta + anchorSuffix}.createWith("", anchorImage())} {
			if !errors.Is(err, snapshot.ErrExists) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		if !allBytes(t, target, 0) {
			t.Errorf("%s: root has written to its target", name)
		}
	}
}
