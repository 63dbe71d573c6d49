package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// deltaEnding is what snapshot/qemu puts behind an image's name for its delta,
// the delta of an ordered pivot included.
var deltaEnding = regexp.MustCompile(`^\.lull-[0-9A-Za-z-]{1,64}\.delta(\.merged)?$`)

// MergeEnding is what the journal of a merge into an image adds to its name
// (package merge): while it is there the image is half of what it was, and half of
// what was made on it.
const MergeEnding = ".lull-merge"

// MergeJournal is where the journal of a merge into an image is, by whatever links
// the image is reached.
func MergeJournal(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path + MergeEnding
}

// unfinished fails while a merge into an image is under way or was cut off.
func unfinished(path string) error {
	_, err := os.Lstat(MergeJournal(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return snapshot.WithHint(fmt.Errorf("a merge into %s was not finished: %w", path, snapshot.ErrMergePending),
		"finish it: lull chain merge, with the image that was being merged; `lull chain show` of this one names it")
}

// merged fails while a delta of the image lies beside it: the VM's newest writes
// are in there, so the image alone is not what the VM's disk is.
func merged(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("look for deltas of %s: %w", path, err)
	}
	for _, e := range entries {
		ending, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		if !ok || !deltaEnding.MatchString(ending) {
			continue
		}
		return snapshot.WithHint(
			fmt.Errorf("%s may hold writes that %s lacks: %w", filepath.Join(filepath.Dir(path), e.Name()), path, snapshot.ErrMergePending),
			"let lull merge it, with the configuration of the run that made it: lull agent, or lull backup of that VM")
	}
	return nil
}
