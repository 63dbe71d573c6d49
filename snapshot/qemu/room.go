package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// What deltas leave free by default: the larger of the first two, but never more
// than a quarter of a small file system.
const (
	leastFree  = 1 << 30
	freePart   = 50 // 2 %
	freeAtMost = 4  // a quarter
)

// room is a file system that holds deltas of a plan, and other VMs' disks perhaps:
// QEMU stops every one of them whose write finds it full.
type room struct {
	dir    string
	device uint64
	free   int64
	least  int64 // a run ends when less than this is free, besides merge
	merge  int64 // what merging the deltas may take before they can be removed
}

// rooms looks at each file system of the plan's deltas.
func (h *Host) rooms(p snapshot.Plan) ([]room, error) {
	if h.opt.MinFree < 0 {
		return nil, nil
	}
	var list []room
	for _, d := range p.Disks {
		if d.Delta == "" {
			continue
		}
		r, err := h.roomAt(filepath.Dir(d.Delta))
		if err != nil {
			return nil, fmt.Errorf("look for room for the delta of disk %s: %w", d.Name, err)
		}
		i := slices.IndexFunc(list, func(o room) bool { return o.device == r.device })
		if i < 0 {
			i, list = len(list), append(list, r)
		}
		list[i].merge += growth(d)
	}
	return list, nil
}

// roomAt looks at the file system of a folder, which may be still to be made.
func (h *Host) roomAt(dir string) (room, error) {
	var file unix.Stat_t
	at := dir
	for {
		err := unix.Stat(at, &file)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return room{}, &os.PathError{Op: "stat", Path: at, Err: err}
		}
		at = filepath.Dir(at)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil {
		return room{}, &os.PathError{Op: "statfs", Path: at, Err: err}
	}
	if s.Blocks == 0 { // it keeps no such count, as ramfs
		return room{dir: dir, device: file.Dev, free: math.MaxInt64}, nil
	}
	r := room{dir: dir, device: file.Dev, free: int64(s.Bavail) * s.Bsize, least: h.opt.MinFree}
	if r.least == 0 {
		total := int64(s.Blocks) * s.Bsize
		r.least = min(max(leastFree, total/freePart), total/freeAtMost)
	}
	return r, nil
}

// growth is what the disk's own file may grow by when its delta is merged: the
// delta can be removed only afterwards, and is beside it. A device does not grow.
func growth(d snapshot.DiskPlan) int64 {
	var image, delta unix.Stat_t
	if unix.Stat(d.Path, &image) != nil || image.Mode&unix.S_IFMT != unix.S_IFREG || unix.Stat(d.Delta, &delta) != nil {
		return 0
	}
	const block = 512 // of st_blocks, whatever the file system's are
	return min(delta.Blocks*block, max(d.Size-image.Blocks*block, 0))
}

// tight: less is free than a run should begin with.
func (r room) tight() bool { return r.free < 2*r.least+r.merge }

// enough lets a run begin only where it will not have to end at once.
func (h *Host) enough(p snapshot.Plan) error {
	list, err := h.rooms(p)
	if err != nil {
		return err
	}
	for _, r := range list {
		if r.tight() {
			return r.short(fmt.Sprintf("%s are needed to begin", humanize.IBytes(uint64(2*r.least+r.merge))))
		}
	}
	return nil
}

// watchRoom ends a run while its deltas can still be merged and nobody has been
// stopped. It warns once before.
func (f *frozen) watchRoom() error {
	list, err := f.host.rooms(f.plan)
	if err != nil {
		return err
	}
	for _, r := range list {
		if r.free < r.least+r.merge {
			return r.short(fmt.Sprintf("the run ends while the last %s are free", humanize.IBytes(uint64(r.least+r.merge))))
		}
		if r.tight() && !f.warned {
			f.warned = true
			f.host.opt.Log.Warn("room for deltas runs out", "vm", f.plan.VM, "folder", r.dir, "free", r.free, "ends_below", r.least+r.merge)
		}
	}
	return nil
}

func (r room) short(rule string) error {
	return snapshot.WithHint(fmt.Errorf("%s are free for deltas in %s, %s: %w", humanize.IBytes(uint64(max(r.free, 0))), r.dir, rule, snapshot.ErrNoSpace),
		"make room in "+r.dir+": what the guest writes during a backup goes there")
}
