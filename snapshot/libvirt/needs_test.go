package libvirt

import (
	"errors"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// What is lacking is named, with what to do.
func TestLacks(t *testing.T) {
	t.Parallel()
	h := &Host{}
	if lacks := h.Lacks(PassesFiles, TestedQEMU); len(lacks) > 0 {
		t.Errorf("as root, with all that the tests need: %v", lacks)
	}
	h.opt.QemuImg = "/none/qemu-img"
	lacks := h.Lacks(PassesFiles-1, TestedQEMU-1)
	if len(lacks) != 3 {
		t.Errorf("lacks %v", lacks)
	}
	for _, err := range lacks {
		var hinted *snapshot.Hinted
		if !errors.As(err, &hinted) || hinted.Next == "" {
			t.Errorf("no advice: %v", err)
		}
	}
}
