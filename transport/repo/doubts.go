package repo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/lull-backup/lull/transport/repo/internal/index"
)

// doubts is what this host knows to be damaged in the store: packs, and the index
// when it misses blocks. It outlives the process in a file beside the index cache,
// an object a line, so that the backup after a check, or after a restore that
// failed, stores again what it meets of their blocks.
//
// As long as there is a doubt no session builds on a parent's map: every block is
// looked up, and known only in packs that are not doubted.
type doubts struct {
	index *index.Index
	path  string // empty: they end with the process

	mu      sync.Mutex
	objects map[string]bool
}

// maxDoubts bounds what is read of the file, in bytes.
const maxDoubts = 1 << 20

// load takes in what this process or another one has noted in the file.
func (d *doubts) load() error {
	if d.path == "" {
		return nil
	}
	f, err := os.Open(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read notes of damage: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDoubts))
	if err != nil {
		return fmt.Errorf("read notes of damage: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for line := range bytes.Lines(b) {
		d.take(string(bytes.TrimSpace(line)))
	}
	return nil
}

// take adds an object; one that is no pack stands for the index. It reports whether
// that is new.
func (d *doubts) take(object string) bool {
	pack, isPack := sumOf(object)
	if isPack = isPack && packObject(pack) == object; !isPack {
		object = indexPrefix
	}
	if d.objects[object] {
		return false
	}
	if isPack {
		d.index.Doubt(pack)
	}
	d.objects[object] = true
	return true
}

// count grows whenever damage comes to light.
func (d *doubts) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.objects)
}

// add notes damaged objects. They count even when the file cannot be written.
func (d *doubts) add(objects ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lines strings.Builder
	for _, o := range objects {
		if d.take(o) {
			lines.WriteString(o + "\n")
		}
	}
	if d.path == "" || lines.Len() == 0 {
		return nil
	}
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note damage: %w", err)
	}
	_, err = f.WriteString(lines.String()) // one write: processes do not mix lines
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("note damage: %w", err)
	}
	return nil
}

// settle is add after everything was read: what was noted before and is whole now is
// forgotten by who opens the repository next.
func (d *doubts) settle(objects []string) error {
	if err := d.add(objects...); err != nil || d.path == "" || d.count() == len(objects) {
		return err
	}
	slices.Sort(objects)
	f, err := os.CreateTemp(filepath.Dir(d.path), filepath.Base(d.path)+"-*.tmp")
	if err != nil {
		return fmt.Errorf("note damage: %w", err)
	}
	_, err = f.WriteString(strings.Join(append(objects, ""), "\n"))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), d.path)
	}
	if err != nil {
		return fmt.Errorf("note damage: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// doubt notes the object that a damaged read names. That it may not be kept for
// later costs the next one to read it a failure of its own.
func (r *Repository) doubt(err error) {
	var known *objectError
	if errors.As(err, &known) && known.kind == ErrCorrupt {
		_ = r.doubts.add(known.object)
	}
}
