package image

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// TestManyRefcountBlocks gives out more clusters than one refcount block counts,
// without writing what would be in them.
func TestManyRefcountBlocks(t *testing.T) {
	img, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Fatal("qemu-img is missing: apt-get install qemu-utils")
	}
	for _, clusters := range []int64{refcountsPerBlock - 7, refcountsPerBlock - 6, refcountsPerBlock, 3*refcountsPerBlock + 1} {
		path := filepath.Join(t.TempDir(), "disk.qcow2")
		target, err := Images{}.Create(t.Context(), path, snapshot.FormatQcow2, clusters*writerCluster, false)
		if err != nil {
			t.Fatal(err)
		}
		for n := range clusters {
			if _, _, err := target.(*qcow2Target).place(n*writerCluster, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := target.Commit(); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(img, "check", "-f", "qcow2", path).CombinedOutput(); err != nil {
			t.Errorf("%d clusters: %v\n%s", clusters, err, out)
		}
	}
}

func TestLayout(t *testing.T) {
	for _, data := range []int64{1, 100, 32700, 32760, 32764, 32768, 1 << 20, 1 << 31} {
		l := planLayout(data, 5, 1000)
		if l.blockCount*refcountsPerBlock < l.total || (l.blockCount-1)*refcountsPerBlock >= l.total {
			t.Errorf("%d clusters of data: %d blocks count %d clusters", data, l.blockCount, l.total)
		}
		if l.refTableLen*writerCluster < l.blockCount*8 {
			t.Errorf("%d clusters of data: refcount table of %d clusters for %d blocks", data, l.refTableLen, l.blockCount)
		}
	}
}
