package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
)

// doubts is what this host knows to be damaged in the store: packs, and the index
// when it misses blocks. What a check finds is in the store, for all hosts (see
// quarantine). What a backup or a restore meets, which may not be allowed to write
// there, outlives the process in a file beside the index cache, an object a line. So
// the backup after it stores again what it meets of their blocks.
//
// As long as there is a doubt no session builds on a parent's map: every block is
// looked up, and known only in packs that are not doubted.
type doubts struct {
	index *index.Index
	path  string // empty: they end with the process

	mu      sync.Mutex
	learned int                    // grows whenever damage comes to light
	objects map[string]bool        // of this host
	store   map[string]*quarantine // by object: those that are in the store
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
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDoubts))
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for line := range bytes.Lines(b) {
		d.take(string(bytes.TrimSpace(line)))
	}
	return nil
}

// loadDoubts takes in what is known of damage, here and in the store.
func (r *Repository) loadDoubts(ctx context.Context, store blob.Store) error {
	if err := r.doubts.load(); err != nil {
		return err
	}
	if !r.ring.Format().Signed() {
		return nil
	}
	infos, err := list(ctx, store, quarantinePrefix)
	if err != nil {
		return err
	}
	now := map[string]*quarantine{}
	for _, i := range infos {
		if now[i.Name] = r.doubts.known(i.Name); now[i.Name] != nil {
			continue
		}
		q, err := r.readQuarantine(ctx, i)
		switch {
		case errors.Is(err, blob.ErrNotFound):
			delete(now, i.Name) // lifted meanwhile
			continue
		case passable(err):
			q = quarantine{unread: true}
		case err != nil:
			return err
		}
		now[i.Name] = &q
	}
	r.doubts.replace(now)
	return nil
}

// known is a quarantine that was read before.
func (d *doubts) known(object string) *quarantine {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.store[object]
}

// replace takes what is in the store for all that there is. Blocks of packs that are no
// more doubted are known again when the repository is opened next.
func (d *doubts) replace(now map[string]*quarantine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for object, q := range now {
		if d.store[object] == nil {
			d.adopt(q)
		}
	}
	d.store = now
}

// learn takes in the one quarantine that there is after a check; object may be empty.
func (d *doubts) learn(object string, q *quarantine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if object == "" || d.store[object] != nil {
		return
	}
	d.adopt(q)
	if d.store == nil {
		d.store = map[string]*quarantine{}
	}
	d.store[object] = q
}

func (d *doubts) adopt(q *quarantine) {
	d.learned++
	for _, p := range q.Packs {
		d.index.Doubt(p)
	}
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
	d.learned++
	return true
}

// packs are all that are known to be damaged, here or in the store; all is false when what
// the store says cannot be read.
func (d *doubts) packs() (bad map[[32]byte]bool, all bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	bad, all = map[[32]byte]bool{}, true
	for object := range d.objects {
		if name, ok := sumOf(object); ok {
			bad[name] = true
		}
	}
	for _, q := range d.store {
		all = all && !q.unread
		for _, name := range q.Packs {
			bad[name] = true
		}
	}
	return bad, all
}

// count grows whenever damage comes to light.
func (d *doubts) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.learned
}

// trusts tells whether a session may build on the map of a stream.
func (d *doubts) trusts(root block.Name) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.objects) > 0 {
		return false
	}
	for _, q := range d.store {
		if len(q.Packs) > 0 || q.unread || slices.Contains(q.Roots, Hash(root)) {
			return false
		}
	}
	return true
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

// settle is add after everything was read, or noted in the store: what was noted before
// and is not among objects is forgotten by who opens the repository next.
func (d *doubts) settle(objects []string) error {
	if err := d.add(objects...); err != nil || d.path == "" || d.size() == len(objects) {
		return err
	}
	slices.Sort(objects)
	if err := replaceFile(d.path, []byte(strings.Join(append(objects, ""), "\n"))); err != nil {
		return fmt.Errorf("note damage: %w", err)
	}
	return nil
}

// size is how many objects this host has noted.
func (d *doubts) size() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.objects)
}

// doubt notes the object that a damaged read names. That it may not be kept for
// later costs the next one to read it a failure of its own.
func (r *Repository) doubt(err error) {
	var known *objectError
	if errors.As(err, &known) && known.kind == ErrCorrupt {
		_ = r.doubts.add(known.object)
	}
}
