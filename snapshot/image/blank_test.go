package image_test

import (
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// TestBlank: an image upon another is blank until anything was written to it, be it zeros.
func TestBlank(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.qcow2")
	qemuImg(t, "create", "-f", "qcow2", base, "3G") // more than an L2 table tells of
	for name, test := range map[string]struct {
		commands []string
		blank    bool
	}{
		"new":       {blank: true},
		"read":      {commands: []string{"read 0 64k"}, blank: true},
		"written":   {commands: []string{"write -P 1 2G 512"}},
		"zeros":     {commands: []string{"write -z 0 64k"}},
		"discarded": {commands: []string{"discard 1G 64k"}},
	} {
		path := filepath.Join(dir, name+".qcow2")
		qemuImg(t, "create", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
		if len(test.commands) > 0 {
			qemuIO(t, path, "qcow2", test.commands...)
		}
		if blank, err := image.Blank(t.Context(), path, snapshot.FormatQcow2); err != nil || blank != test.blank {
			t.Errorf("%s: %v, %v", name, blank, err)
		}
	}
}
