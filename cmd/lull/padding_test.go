package main

import (
	"fmt"
	"io/fs"
	"math/bits"
	"path/filepath"
	"testing"
)

// The sizes of packs tell little where the configuration says so, and only there.
func TestPaddingIsConfigured(t *testing.T) {
	t.Parallel()
	for _, padding := range []bool{true, false} {
		b := newBench(t)
		b.app.Cost = cheap()
		if err := writeDisk(b.path("web.img"), 8<<20, 1); err != nil {
			t.Fatal(err)
		}
		b.write("lull.yaml", fmt.Sprintf(`
agent: {state_dir: %[1]s/state, cache_dir: %[1]s/cache, socket: %[1]s/lull.sock}
repositories:
  main: {dir: %[1]s/repo, padding: %[2]t}
hosts:
  cold: {images: {vms: [{name: web, disks: [{path: %[1]s/web.img, format: raw}]}]}}
groups:
  nightly: {vms: ["*"], repository: main, schedule: manual, keep: {last: 1}}
`, b.dir, padding))
		b.lull(exitDone, "init", "--config", b.path("lull.yaml"))
		b.lull(exitDone, "backup", "web", "--config", b.path("lull.yaml"))
		round := 0
		sizes := packSizes(t, b.path("repo/packs"))
		for _, size := range sizes {
			log := bits.Len64(uint64(size)) - 1
			if bits.TrailingZeros64(uint64(size)) >= log-bits.Len(uint(log)) { // PADMÉ, docs/threat-model.md
				round++
			}
		}
		if len(sizes) < 2 || (round == len(sizes)) != padding {
			t.Errorf("padding: %t: packs of %d bytes", padding, sizes)
		}
	}
}

func packSizes(t *testing.T, dir string) (sizes []int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sizes = append(sizes, info.Size())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sizes
}
