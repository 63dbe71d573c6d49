package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/repo"
)

// progressEvery bounds how often progress is told.
const progressEvery = 200 * time.Millisecond

// read stores every frozen disk and file, and describes the point. The VM is
// watched meanwhile: one that cannot go on ends the reading at once.
func (b *backup) read(ctx context.Context) (repo.Point, error) {
	watched, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		if err := b.frozen.Watch(watched); err != nil && watched.Err() == nil {
			cancel(err)
		}
	})
	defer watch.Wait()
	defer cancel(nil)

	point, err := b.readAll(watched)
	if errors.Is(err, repo.ErrCorrupt) {
		if err = b.beginAgain(ctx, err); err == nil {
			point, err = b.readAll(watched)
		}
	}
	if err != nil {
		return point, because(watched, err)
	}
	b.step(StepRead, tracked(point))
	b.drift(ctx, &point)
	return point, nil
}

// beginAgain puts a new session in place of one that damage in the repository has
// ended: it knows of the damage, and stores anew what was lost.
func (b *backup) beginAgain(ctx context.Context, damage error) error {
	b.warn(fmt.Sprintf("the reading starts over: %v", damage))
	if err := b.session.Close(); err != nil {
		return fmt.Errorf("close session: %w", err)
	}
	session, err := b.job.Repository.Begin(ctx, b.job.Name, b.Now())
	if err != nil {
		return err
	}
	b.session = session
	return nil
}

// warnOnce warns of what a reading that starts over finds again.
func (b *backup) warnOnce(message string) {
	if !slices.Contains(b.result.Warnings, message) {
		b.warn(message)
	}
}

func (b *backup) readAll(ctx context.Context) (repo.Point, error) {
	point := repo.Point{
		VM: b.job.Name, Frozen: b.instant.UTC(), Agent: b.Version,
		Hardware: b.plan.Hardware, Excluded: b.plan.Excluded, Quiesce: b.report,
	}
	for _, x := range b.plan.Excluded {
		if !x.Expected {
			b.warnOnce(fmt.Sprintf("disk %s is left out: %s", x.Disk.Name, x.Reason))
		}
	}
	for _, w := range b.plan.Warnings {
		b.warnOnce(w)
	}
	b.lookBack()
	parent := b.parent()
	progress := b.progress(StepReading)
	for _, d := range b.plan.Disks {
		disk, read, err := b.readDisk(ctx, d.Disk, parent, progress)
		if err != nil {
			return point, fmt.Errorf("read disk %s: %w", d.Name, err)
		}
		disk.Encrypted = d.Key != ""
		b.warnDecrypted(disk, diskOf(parent, d.Disk))
		point.Disks = append(point.Disks, disk)
		point.Stats.Read += read
	}
	if err := b.readFiles(ctx, &point); err != nil {
		return point, err
	}
	if b.report.Level == quiesce.LevelSavedState && b.plan.State != snapshot.StateOff {
		state, read, err := b.readState(ctx, parent)
		if err != nil {
			return point, fmt.Errorf("read saved state: %w", err)
		}
		point.Files = append(point.Files, state)
		point.Stats.Read += read
	}
	return point, nil
}

// readFiles stores the small files of the VM. One that cannot be read is left out.
func (b *backup) readFiles(ctx context.Context, point *repo.Point) error {
	for _, f := range b.plan.Files {
		data, err := b.frozen.File(ctx, f.Path)
		if errors.Is(err, snapshot.ErrInexact) {
			b.warnOnce(fmt.Sprintf("%s file: %v; it is kept as it was soon after", f.Role, err))
			err = nil
		}
		if err != nil {
			b.warnOnce(fmt.Sprintf("%s file %s is left out: %v", f.Role, f.Path, err))
			continue
		}
		root, err := transport.BackupBytes(ctx, b.session, data)
		if err != nil {
			return fmt.Errorf("store %s file %s: %w", f.Role, f.Path, err)
		}
		point.Files = append(point.Files, repo.File{File: f, Root: root})
	}
	return nil
}

// warnDecrypted says once in a disk's life what a point of an encrypted one is: whoever
// keeps disks encrypted has to think of where points are restored to.
func (b *backup) warnDecrypted(d repo.Disk, before *repo.Disk) {
	if d.Encrypted && (before == nil || !before.Encrypted) {
		b.warnOnce(fmt.Sprintf("disk %s is encrypted by the hypervisor: its restore points hold what the guest sees, under the repository's own encryption, "+
			"and a restore makes an image that is not encrypted; this is told once", d.Name))
	}
}

var errNoState = errors.New("the host does not hand it out")

// readState stores the memory of a VM. Without it the point is not what its level
// says, so here an error ends the run.
func (b *backup) readState(ctx context.Context, parent repo.Point) (_ repo.File, read int64, err error) {
	f := repo.File{File: snapshot.File{Role: snapshot.RoleSavedState, Path: b.plan.Saved.Path}}
	frozen, ok := b.frozen.(snapshot.FrozenState)
	if !ok {
		return f, 0, errNoState
	}
	src, err := frozen.SavedState(ctx)
	if err != nil {
		return f, 0, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	stored, err := transport.Backup(ctx, b.session, src, stateOf(parent, src.Size()), transport.Options{Workers: b.Workers})
	f.Root = stored.Root
	return f, stored.Read, err
}

func (b *backup) readDisk(ctx context.Context, d snapshot.Disk, parent repo.Point, progress func(int64)) (_ repo.Disk, read int64, err error) {
	src, err := b.frozen.Disk(ctx, d.Name)
	if err != nil {
		return repo.Disk{}, 0, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	before := diskOf(parent, d)
	changes, err := b.changes(ctx, d, before)
	if err != nil {
		return repo.Disk{}, 0, err
	}
	o := transport.Options{Workers: b.Workers, Progress: progress, Changes: changes.Since, Audit: b.audits(before)}
	var root *repo.Root
	if before != nil {
		root = &before.Root
	}
	stored, err := transport.Backup(ctx, b.session, src, root, o)
	if err != nil {
		return repo.Disk{}, 0, err
	}
	d.Size = src.Size()
	return repo.Disk{Disk: d, Root: stored.Root, Tracking: b.tracking(changes, before, stored, o.Audit)}, stored.Read, nil
}

// parent is the VM's point before, or the zero Point.
func (b *backup) parent() repo.Point {
	p, _ := b.session.Parent()
	return p
}

// ownParent tells whether the point before was made with this host's key, if there is one.
func (b *backup) ownParent() bool {
	p := b.parent()
	return p.SignedBy == "" || b.job.Repository.Made(&p)
}

// lookBack warns of the points before. Those that are damaged, or another key's, are no
// reason to make no new one; but somebody is to know of them.
func (b *backup) lookBack() {
	switch by := b.parent().SignedBy; {
	case b.ownParent():
	case by == b.job.Repository.Label():
		b.warnOnce(fmt.Sprintf("the restore point before is of another key that had the label %q: the disks are read in full", by))
	default:
		b.warnOnce(fmt.Sprintf("the restore point before is of key %q, this host's key is %q: keep counts each key's points on their own, see lull forget --dry-run",
			by, b.job.Repository.Label()))
	}
	if _, damaged := b.session.Parent(); damaged != nil {
		b.warnOnce("an earlier restore point cannot be used: " + strings.ReplaceAll(damaged.Error(), "\n", "; "))
	}
}

// diskOf is the same disk in the point before, or nil. A disk that changed its size
// starts anew; its blocks are found by name all the same.
func diskOf(p repo.Point, d snapshot.Disk) *repo.Disk {
	for i := range p.Disks {
		if p.Disks[i].Name == d.Name && p.Disks[i].Root.Size == d.Size {
			return &p.Disks[i]
		}
	}
	return nil
}

// stateOf is the map of the memory in the point before, if that was as large.
func stateOf(p repo.Point, size int64) *repo.Root {
	for i := range p.Files {
		if p.Files[i].Role == snapshot.RoleSavedState && p.Files[i].Root.Size == size {
			return &p.Files[i].Root
		}
	}
	return nil
}

// progress returns a function for the transfer that tells the observer now and
// then how far all disks of the run are.
func (b *backup) progress(s Step) func(int64) {
	var total int64
	for _, d := range b.plan.Disks {
		total += d.Size
	}
	return meter(b.Now, total, func(done int64) { b.emit(Event{Step: s, Done: done, Total: total}) })
}

// meter adds up progress and tells it at most every progressEvery, and at the end.
func meter(now func() time.Time, total int64, tell func(done int64)) func(int64) {
	var mu sync.Mutex
	var done int64
	var last time.Time
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		if t := now(); t.Sub(last) >= progressEvery || done == total {
			last = t
			tell(done)
		}
	}
}
