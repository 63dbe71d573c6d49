package merge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

const (
	journalKind    = "lull-merge"
	journalVersion = 1
	journalMax     = 64 << 20 // bytes; patches are small
)

// journal is what must be known after a crash.
type journal struct {
	Child    string          `json:"child"` // path
	Format   snapshot.Format `json:"format"`
	ChildID  string          `json:"child_id"`
	ParentID string          `json:"parent_id"` // before the merge
	NewID    string          `json:"new_id"`    // of the parent, from the first write on
	Merged   bool            `json:"merged"`    // all is written and was compared
	Discard  bool            `json:"discard"`   // the child may be removed then
	Boot     string          `json:"boot"`      // of the host, in which the parent was last written to
	Position int64           `json:"position"`  // on the disk: what is before is done
	End      int64           `json:"end"`       // layer.Writer.End
	Size     int64           `json:"size"`      // of the parent's file once Patches are written
	Patches  []layer.Patch   `json:"patches"`
}

// bootID tells one boot of this host from all others.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("tell this boot from others: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func journalPath(parent string) string { return image.MergeJournal(parent) }

func (j journal) encode() ([]byte, error) { return durable.Encode(journalKind, journalVersion, j) }

// readJournal reads the journal of a merge into a parent; nil where there is none.
func readJournal(parent string) (j *journal, err error) {
	path := journalPath(parent)
	b, err := durable.ReadFile(path, journalMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, durable.ErrTooLong) {
		return nil, err
	}
	if err == nil {
		j, err = decode(b)
	}
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w: %w", path, snapshot.ErrCorrupt, err)
	}
	return j, nil
}

func decode(b []byte) (*journal, error) {
	j := &journal{}
	if err := durable.Decode(journalKind, journalVersion, b, j); err != nil {
		return nil, err
	}
	if j.Position < 0 || j.End < 0 || j.Size < 0 {
		return nil, errors.New("negative numbers")
	}
	for _, p := range j.Patches {
		if p.Off < 0 || p.Off > j.Size-int64(len(p.Data)) {
			return nil, errors.New("a patch outside of the image")
		}
	}
	return j, nil
}
