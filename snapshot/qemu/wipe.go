package qemu

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/wipe"
)

// wipeLeft overwrites what Merge has left for that, and removes it. The VM runs on its
// images by now, so it may take its time; what it does not come to, the next Merge does.
func (h *Host) wipeLeft(ctx context.Context, p snapshot.Plan) error {
	left := map[string]wipe.Kind{}
	for _, d := range p.Disks {
		if d.Wipe {
			left[d.Delta+wipedSuffix] = wipe.Dense // QEMU wrote it
			left[d.Delta+mergedSuffix+wipedSuffix] = wipe.Dense
		}
	}
	if p.Saved.Wipe {
		left[p.Saved.Path+wipedSuffix] = wipe.Sparse
		left[p.Saved.Path+savingSuffix+wipedSuffix] = wipe.Sparse
	}
	for path, kind := range left {
		if err := wipe.Remove(ctx, path, kind); err != nil {
			return snapshot.WithHint(err, "run lull again: it goes on where it was; or remove "+snapshot.ShellWord(path)+" yourself: nothing needs it any more")
		}
	}
	return nil
}

// wipedInVain warns of file systems on which overwriting destroys nothing.
func wipedInVain(p snapshot.Plan) (warnings []string) {
	seen := map[string]bool{}
	for _, d := range p.Disks {
		dir := filepath.Dir(d.Delta)
		if !d.Wipe || seen[dir] {
			continue
		}
		seen[dir] = true
		if doubt, err := wipe.Doubt(dir); err == nil && doubt != "" {
			warnings = append(warnings, fmt.Sprintf("deltas in %s are wiped in vain: %s; keep them elsewhere (delta_dir)", dir, doubt))
		}
	}
	return warnings
}
