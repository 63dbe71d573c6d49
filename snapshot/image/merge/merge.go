package merge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

// Job is one merge.
type Job struct {
	Child   string // path
	Format  snapshot.Format
	Parents []string // where the parent is, if not beside the child
	Discard bool     // remove the child once all it has is in the parent
	// Unchanged is the administrator's word that a VHD parent was copied, but not
	// written to, where its time says otherwise.
	Unchanged bool
	// Progress hears, if it is not nil, how far on the disk the merge is.
	Progress func(done, total int64)

	// For tests.
	disk  disk
	batch int64
	boot  string
}

// Result is what a merge came to.
type Result struct {
	Child     string
	Parent    string
	Written   int64 // bytes
	Resumed   bool  // an earlier merge was cut off
	Discarded bool
}

const (
	batch      = 256 << 20 // bytes of data that go before their tables
	maxPending = 8 << 20   // bytes of tables that wait

	batchTime = 15 * time.Minute // no batch takes that long
)

// run is a merge under way.
type run struct {
	Job
	parentPath string
	child      format
	childFile  *layer.File
	parentFile *layer.File
	dev        layer.Device
	j          journal
	resumed    bool
	written    int64
}

// Run merges an image into the one that it was made on. Errors: snapshot.ErrBusy,
// ErrCorrupt (also for a parent that is not, or no longer, the one), ErrNoSpace,
// ErrUnsupported, ErrMergePending (the parent waits for another merge). After any
// error, and any crash, it may be called again.
func Run(ctx context.Context, job Job) (Result, error) {
	if job.disk == nil {
		job.disk = osDisk{}
	}
	if job.batch == 0 {
		job.batch = batch
	}
	if job.boot == "" {
		var err error
		if job.boot, err = bootID(); err != nil {
			return Result{}, fmt.Errorf("merge %s: %w", job.Child, err)
		}
	}
	r := &run{Job: job}
	res, err := r.run(ctx)
	err = errors.Join(err, r.close())
	if err != nil {
		return res, fmt.Errorf("merge %s: %w", job.Child, noSpace(err))
	}
	return res, nil
}

func (r *run) run(ctx context.Context) (Result, error) {
	if err := mergeable(r.Format); err != nil {
		return Result{}, err
	}
	if _, err := os.Lstat(r.Child); errors.Is(err, fs.ErrNotExist) {
		return r.afterwards(err)
	}
	if err := r.open(ctx); err != nil {
		return Result{}, err
	}
	res := Result{Child: r.Child, Parent: r.parentPath, Resumed: r.resumed}
	if !r.j.Merged {
		if err := r.copy(ctx); err != nil {
			return res, err
		}
	}
	// Where an earlier run did so, the parent may have been put back since.
	if err := r.compare(ctx); err != nil {
		return res, err
	}
	res.Written = r.written
	if err := r.finish(); err != nil {
		return res, err
	}
	res.Discarded = r.Discard
	return res, nil
}

func (r *run) close() error {
	var errs []error
	for _, f := range []*layer.File{r.childFile, r.parentFile} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// open opens and locks both images, looks at everything that could stand in the
// way, and writes the journal.
func (r *run) open(ctx context.Context) error {
	info, parent, err := image.FindParent(r.Child, r.Format, r.Parents...)
	if err != nil {
		return err
	}
	if parent == "" {
		return fmt.Errorf("it was made on no other image: %w", snapshot.ErrUnsupported)
	}
	r.parentPath = parent
	if err := r.lock(); err != nil {
		return err
	}
	j, err := readJournal(parent)
	if err != nil {
		return err
	}
	if j != nil {
		return r.resume(*j, info)
	}
	return r.begin(ctx, info)
}

func (r *run) lock() (err error) {
	if r.childFile, err = layer.Open(r.Child); err != nil {
		return err
	}
	if err := image.LockForReading(r.childFile.File); err != nil {
		return err
	}
	if r.child, err = openFormat(r.childFile, r.Format); err != nil {
		return err
	}
	f, err := os.OpenFile(r.parentPath, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	r.parentFile = &layer.File{File: f, Path: r.parentPath}
	r.dev = r.disk.device(f)
	return image.LockForWriting(f)
}

// parent opens the parent as it is now.
func (r *run) parent() (format, error) {
	stat, err := r.parentFile.Stat()
	if err != nil {
		return nil, err
	}
	if !stat.Mode().IsRegular() {
		return nil, r.parentFile.Unsupported("merge into what is no regular file")
	}
	f := *r.parentFile
	f.Size = stat.Size()
	return openFormat(&f, r.Format)
}

// begin is a merge from its beginning.
func (r *run) begin(ctx context.Context, child image.Info) error {
	parent, err := r.parent()
	if err != nil {
		return err
	}
	if err := r.look(ctx, child, parent); err != nil {
		return err
	}
	path, err := filepath.Abs(r.Child)
	if err != nil {
		return err
	}
	w := parent.writer(r.dev, 0)
	r.j = journal{
		Child: path, Format: r.Format, ChildID: child.ID,
		ParentID: parent.Identity().ID, NewID: parent.newID(), Discard: r.Discard, Boot: r.boot,
	}
	if err := r.save(w, 0); err != nil {
		return err
	}
	return parent.begin(r.dev, r.j.NewID)
}

// resume goes on with a merge that was cut off.
func (r *run) resume(j journal, child image.Info) error {
	if j.ChildID != child.ID || j.ParentID != child.ParentID || j.Format != r.Format {
		return snapshot.WithHint(
			fmt.Errorf("%s waits for the end of the merge of %s: %w", r.parentPath, j.Child, snapshot.ErrMergePending),
			"finish that first: lull chain merge "+j.Child)
	}
	r.resumed = true
	j.Discard = r.Discard
	r.j = j
	// Tables may be torn, but not what tells who the parent is. Nothing is written
	// before that is known to be as we left it.
	parent, err := r.parent()
	if err != nil {
		return err
	}
	if err := r.untouched(parent.Identity().ID); err != nil || j.Merged {
		return err
	}
	r.j.Boot = r.boot
	if err := r.apply(); err != nil || parent.Identity().ID == j.NewID {
		return err
	}
	return parent.begin(r.dev, j.NewID) // the crash came before the new identity
}

// untouched refuses a parent that others wrote to since the merge was cut off.
func (r *run) untouched(id string) error {
	const (
		hint   = "the image that is merged is whole: keep it; what the parent is now only who wrote to it can say"
		inWord = "; where you know that nobody wrote to it, give --parent-unchanged"
	)
	if id != r.j.NewID && (id != r.j.ParentID || r.j.Merged) {
		return snapshot.WithHint(fmt.Errorf("%s was written to since its merge was cut off: it has %s now: %w", r.parentPath, id, snapshot.ErrCorrupt), hint)
	}
	if r.j.NewID != r.j.ParentID || r.Unchanged {
		return nil
	}
	// A VHD has nothing but a time to tell by, and a host that starts may start the VM
	// right away. A merge notes how far it is after every batch.
	if r.j.Boot != r.boot {
		return snapshot.WithHint(fmt.Errorf("%s may have been written to: this host was started anew since its merge was last heard of, or it was another host's: %w",
			r.parentPath, snapshot.ErrInexact), hint+inWord)
	}
	last, err := os.Stat(journalPath(r.parentPath))
	if err != nil {
		return err
	}
	now, err := r.parentFile.Stat()
	if err != nil {
		return err
	}
	if late := now.ModTime().Sub(last.ModTime()); late > batchTime {
		return snapshot.WithHint(fmt.Errorf("%s was written to %s after its merge was last heard of: %w", r.parentPath, late.Round(time.Second), snapshot.ErrInexact),
			hint+inWord)
	}
	return nil
}

// apply writes the patches of the journal, and cuts off what lies behind them.
func (r *run) apply() error {
	if err := r.dev.Truncate(r.j.Size); err != nil {
		return err
	}
	for _, p := range r.j.Patches {
		if _, err := r.dev.WriteAt(p.Data, p.Off); err != nil {
			return err
		}
	}
	return r.dev.Sync()
}

// save makes durable what was written, and notes how far that is and what tables
// come to.
func (r *run) save(w layer.Writer, position int64) error {
	if err := r.dev.Sync(); err != nil {
		return err
	}
	r.j.Patches, r.j.Size = w.Patches()
	r.j.End, r.j.Position = w.End(), position
	return r.note()
}

func (r *run) note() error {
	b, err := r.j.encode()
	if err != nil {
		return err
	}
	return r.disk.replace(journalPath(r.parentPath), b)
}

// finish removes what is not needed any more.
func (r *run) finish() error {
	r.j.Merged, r.j.Discard, r.j.Patches = true, r.Discard, nil
	if err := r.note(); err != nil {
		return err
	}
	if r.Discard {
		if err := r.disk.remove(r.Child); err != nil {
			return err
		}
	}
	return r.disk.remove(journalPath(r.parentPath))
}

// afterwards is for a child that is gone: where a crash came between its removal and
// that of the journal, only the latter is left to be done.
func (r *run) afterwards(gone error) (Result, error) {
	for _, dir := range folders(append(slices.Clone(r.Parents), r.Child)...) {
		found, err := filepath.Glob(filepath.Join(escape(dir), "*"+image.MergeEnding))
		if err != nil {
			return Result{}, err
		}
		for _, path := range found {
			parent := strings.TrimSuffix(path, image.MergeEnding)
			j, err := readJournal(parent)
			if err != nil {
				return Result{}, err
			}
			if j == nil || !j.Merged || !j.Discard || filepath.Base(j.Child) != filepath.Base(r.Child) {
				continue
			}
			res := Result{Child: r.Child, Parent: parent, Resumed: true, Discarded: true}
			return res, r.disk.remove(path)
		}
	}
	return Result{}, gone
}

// folders are those in which files are, by the names given and by what these link to.
func folders(paths ...string) []string {
	var list []string
	for _, p := range paths {
		list = append(list, filepath.Dir(p))
		if real, err := filepath.EvalSymlinks(p); err == nil {
			list = append(list, filepath.Dir(real))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// escape makes a path a pattern that means itself.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
