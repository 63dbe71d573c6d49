package qemu

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// nodePrefix begins the name of everything that lull makes inside QEMU.
const nodePrefix = "lull-"

// mergedSuffix is added to a delta's path when its pivot is ordered.
const mergedSuffix = ".merged"

// mapSuffix is added to a delta's path for the image by which a record is read.
const mapSuffix = ".map"

var errBadRun = errors.New("a run is named by 1 to 64 of 0-9 A-Z a-z -")

func checkRun(run string) error {
	const allowed = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-"
	if run == "" || len(run) > 64 || strings.Trim(run, allowed) != "" {
		return errBadRun
	}
	return nil
}

// runName is the stem of all names of a run in QEMU. QEMU allows 31 bytes in a
// node name, and "-file" has to fit behind the number of the disk.
func runName(vm, run string) string {
	sum := sha256.Sum256([]byte(vm + "\x00" + run))
	return nodePrefix + hex.EncodeToString(sum[:6])
}

func deltaNode(vm, run string, disk int) string {
	return fmt.Sprintf("%s-%d", runName(vm, run), disk)
}

// Names that follow from the node of a delta.
func fileNode(delta string) string  { return delta + "-file" }
func createJob(delta string) string { return delta + "-create" }
func mapNode(delta string) string   { return delta + "-map" }
func commitJob(delta string) string { return delta + "-commit" }

// isDelta tells whether a path is that of a delta, merged ones too.
func isDelta(path string) bool {
	stem, ok := strings.CutSuffix(strings.TrimSuffix(path, mergedSuffix), ".delta")
	i := strings.LastIndex(stem, ".lull-")
	return ok && i >= 0 && checkRun(stem[i+len(".lull-"):]) == nil
}

// wipedSuffix is added to the name of a file of which nothing is needed any more, but
// that it is overwritten before it goes.
const wipedSuffix = ".wipe"

// place is where the delta of a disk goes: beside the image, not beside a link to it; or
// into the folder for deltas, with a link beside the image. A disk that is no regular
// file has no folder of its own, and no link.
func (h *Host) place(vm VM, d disk, run string) (delta, link string, err error) {
	ending := ".lull-" + run + ".delta"
	image, err := filepath.EvalSymlinks(d.Path)
	if d.regular && err == nil {
		link = image + ending
	}
	if vm.DeltaDir == "" && link != "" {
		delta, link = link, ""
	} else {
		delta = filepath.Join(cmp.Or(vm.DeltaDir, h.opt.DeltaDir), h.inFolder(vm.Name, d.Name)+ending)
	}
	for _, path := range []string{delta, link} {
		if n := len(filepath.Base(path)) + len(mergedSuffix) + len(wipedSuffix); n > 255 {
			return "", "", fmt.Errorf("name the delta of %s: a name of %d bytes: %w", d.Path, n, snapshot.ErrUnsupported)
		}
	}
	return delta, link, nil
}

// inFolderSeparator is nothing that fileWord says, so that no two disks share a stem.
const inFolderSeparator = "+"

// inFolder is the stem of a delta's name in a folder where others' are too.
func (h *Host) inFolder(vm, disk string) string {
	stem := fileWord(vm) + inFolderSeparator + fileWord(disk)
	if h.opt.Name != "" {
		stem = fileWord(h.opt.Name) + inFolderSeparator + stem
	}
	return stem
}

// statePath is where the VM's memory goes: beside the first delta.
func statePath(p snapshot.Plan) string {
	return filepath.Join(filepath.Dir(p.Disks[0].Delta), fileWord(p.VM)+".lull-"+p.Run+".state")
}

// fileWord makes any string good for a file name, reversibly enough to stay
// unique.
func fileWord(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}
