package agent

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

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/wipe"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/repo"
)

// RestoreJob is one restore point to bring back into a folder.
type RestoreJob struct {
	Repository *repo.Repository
	Point      repo.Point
	Dir        string          // made when missing
	Format     snapshot.Format // of the disks; empty: as they were, or raw where that is not written
	Images     snapshot.Images
	Definer    snapshot.Definer // nil: the disks alone
	Overwrite  bool             // replace files that are there
	// BestEffort goes on past what is damaged, and tells what is missing. A disk
	// with holes gets a name that says so. Not together with Overwrite.
	BestEffort bool
	// Cold leaves the memory of a VM away: it starts from its disks alone. A
	// best-effort restore does so always, as its disks may not be those of the memory.
	Cold bool
	// Wipe has what the restore gives up, and what killed ones have left, overwritten before
	// it is removed. Images is to do the same.
	Wipe bool
	// Writer starts the writers that took part in the point, for PreRestore and
	// PostRestore. Nil: none is asked.
	Writer  RestoreWriter
	Observe Observer // may be nil
	Now     func() time.Time
	Workers int // 0: the transfer's default
}

// RestoreResult is what a restore wrote.
type RestoreResult struct {
	VM    string                  `json:"vm"`
	Point string                  `json:"point"`
	Disks []snapshot.RestoredDisk `json:"disks"`
	Files []snapshot.RestoredFile `json:"files,omitempty"`
	// Incomplete are the disks and files that a best-effort restore could not
	// bring back whole; they are not among Disks and Files.
	Incomplete []Incomplete `json:"incomplete,omitempty"`
	// Start lists what makes the VM startable, such as a boot script.
	Start []string `json:"start,omitempty"`
	// Warnings are of writers: the VM is whole without them.
	Warnings []string      `json:"warnings,omitempty"`
	Bytes    int64         `json:"bytes"` // written; zeros are not
	Took     time.Duration `json:"took"`
}

// Restore brings a point back whole. Until every byte of every disk is there and
// proven no file appears under its name; on an error nothing is left but what
// was there before.
func Restore(ctx context.Context, job RestoreJob) (RestoreResult, error) {
	r := &restore{RestoreJob: job, started: job.Now()}
	if err := r.do(ctx); err != nil {
		if errors.Is(err, snapshot.ErrNoSpace) || errors.Is(err, unix.ENOSPC) {
			err = snapshot.WithHint(err, "make room in "+job.Dir+" and run again, or restore elsewhere")
		}
		err = fmt.Errorf("restore %s@%s: %w", job.Point.VM, job.Point.ID, because(ctx, err))
		r.emit(Event{Step: StepFailed, Error: err.Error()})
		return r.result, err
	}
	r.result.Took = job.Now().Sub(r.started)
	return r.result, nil
}

type restore struct {
	RestoreJob
	started time.Time
	disks   []restoreDisk
	files   []restoreFile
	memory  *restoreMemory // nil: none
	written []snapshot.RestoredFile
	staged  []staged
	writers []restoreWriter
	result  RestoreResult
}

// restoreDisk is a disk and the image that it is written into.
type restoreDisk struct {
	repo.Disk
	path   string
	format snapshot.Format
	target snapshot.Target

	incomplete bool // it has holes
}

func (d *restoreDisk) restored() snapshot.RestoredDisk {
	return snapshot.RestoredDisk{Name: d.Name, Path: d.path, Format: d.format, Decrypted: d.Encrypted}
}

// restoreFile is a small file and the path that it is written to.
type restoreFile struct {
	repo.File
	path string
}

// written is the path under which the disk comes to be.
func (d *restoreDisk) written(bestEffort bool) string {
	if bestEffort {
		return d.path + incompleteEnding
	}
	return d.path
}

var errBestEffort = errors.New("a best-effort restore replaces nothing")

func (r *restore) do(ctx context.Context) (err error) {
	if r.BestEffort && r.Overwrite {
		return errBestEffort
	}
	r.result.VM, r.result.Point = r.Point.VM, r.Point.ID
	r.place()
	if err := r.check(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stopWriters()) }()
	if err := r.preRestore(ctx); err != nil {
		return err
	}
	undo, err := makeDir(r.Dir)
	if err != nil {
		return snapshot.WithHint(err, "choose a folder that this user may write to")
	}
	defer func() {
		err = errors.Join(err, r.abort()) // nothing, after commit
		if err != nil {
			undo()
		}
	}()
	if err := r.writeDisks(ctx); err != nil {
		return err
	}
	if err := r.writeFiles(ctx); err != nil {
		return err
	}
	if err := r.writeMemory(ctx); err != nil {
		return err
	}
	if err := r.commit(); err != nil {
		return err
	}
	err = r.define(ctx)
	if err != nil && !errors.Is(err, snapshot.ErrNoMemory) {
		return err
	}
	r.postRestore(ctx) // the VM is there
	return err
}

// commit gives everything its name. Where that fails half-way, what has replaced
// nothing goes again: half a VM is none.
func (r *restore) commit() (err error) {
	var placed []string
	defer func() {
		if err == nil || r.Overwrite {
			return
		}
		for _, path := range placed {
			err = errors.Join(err, r.discard(path))
		}
	}()
	for _, f := range r.staged {
		if err := f.commit(); err != nil {
			return fmt.Errorf("finish file: %w", err)
		}
		placed = append(placed, f.path)
	}
	for i := range r.disks {
		d := &r.disks[i]
		if err := d.target.Commit(); err != nil {
			return fmt.Errorf("finish disk %s: %w", d.Name, err)
		}
		placed = append(placed, d.written(r.BestEffort))
		if d.incomplete {
			continue
		}
		if r.BestEffort {
			if err := r.reveal(d); err != nil {
				return err
			}
			placed[len(placed)-1] = d.path
		}
		r.result.Disks = append(r.result.Disks, d.restored())
	}
	r.result.Files = r.written
	return nil
}

// discard removes a file that was restored in vain.
func (r *restore) discard(path string) error {
	if r.Wipe {
		return wipe.Remove(context.Background(), path, wipe.Sparse) // whatever ended the restore
	}
	return os.Remove(path)
}

// abort removes what has no name yet.
func (r *restore) abort() error {
	var errs []error
	for _, d := range r.disks {
		if d.target != nil {
			errs = append(errs, d.target.Abort())
		}
	}
	for _, f := range r.staged {
		errs = append(errs, f.abort())
	}
	return errors.Join(errs...)
}

// place chooses a path in Dir for every disk and file.
func (r *restore) place() {
	names := newNames()
	if r.definable() {
		for _, path := range r.Definer.Writes(r.Dir) {
			names.pick(path, "vm") // taken
		}
	}
	for _, d := range r.Point.Disks {
		format := d.Format
		switch {
		case r.Format != "":
			format = r.Format
		case !format.Written():
			format = snapshot.FormatRaw
		}
		name := names.pick(inFormat(d.Disk, format), d.Name)
		r.disks = append(r.disks, restoreDisk{Disk: d, path: filepath.Join(r.Dir, name), format: format})
	}
	for _, f := range r.Point.Files {
		if f.Role == snapshot.RoleSavedState {
			r.placeMemory(f, names)
			continue
		}
		r.files = append(r.files, restoreFile{f, filepath.Join(r.Dir, names.pick(f.Path, string(f.Role)))})
	}
}

// inFormat is the path of a disk as its name is in another format.
func inFormat(d snapshot.Disk, format snapshot.Format) string {
	if format == d.Format {
		return d.Path
	}
	path := d.Path
	if path == "" {
		path = d.Name
	}
	ending := filepath.Ext(path)
	switch strings.ToLower(ending) {
	case "." + string(d.Format), ".a" + string(d.Format): // .avhdx and .avhd, too
		path = strings.TrimSuffix(path, ending)
	}
	return path + "." + string(format)
}

// check refuses before anything is written what could only fail later.
func (r *restore) check(ctx context.Context) error {
	if !r.Overwrite {
		for _, p := range r.paths() {
			if _, err := os.Lstat(p); err == nil {
				return snapshot.WithHint(fmt.Errorf("%s: %w", p, snapshot.ErrExists), "choose another folder, or --force to replace it")
			}
		}
	}
	var need int64
	for _, d := range r.disks {
		if !d.format.Written() {
			return fmt.Errorf("disk %s: write format %q: %w", d.Name, d.format, snapshot.ErrUnsupported)
		}
		need += d.Root.Data
	}
	need += r.memory.need()
	if r.memory != nil {
		if err := r.memory.definer.FitsState(ctx, r.Point.Hardware); err != nil {
			return err
		}
	}
	if c, ok := r.Definer.(snapshot.CheckedDefiner); ok && r.definable() {
		if err := c.Check(ctx, r.Point.VM, r.Point.Hardware); err != nil {
			return err
		}
	}
	if info, err := os.Stat(r.Dir); errors.Is(err, unix.ENOTDIR) || err == nil && !info.IsDir() {
		return snapshot.WithHint(fmt.Errorf("%s: not a folder", r.Dir), "choose another")
	}
	if err := sweep(r.Dir, r.Wipe); err != nil {
		return snapshot.WithHint(err, "choose a folder that this user may write to")
	}
	free, dir, err := freeSpace(r.Dir)
	if err != nil {
		return err
	}
	if need > free {
		return fmt.Errorf("%s: %w: the disks take %s, %s are free", dir, snapshot.ErrNoSpace,
			humanize.IBytes(uint64(need)), humanize.IBytes(uint64(free)))
	}
	return ctx.Err()
}

func (r *restore) paths() []string {
	var all []string
	for _, d := range r.disks {
		all = append(all, d.path)
		if r.BestEffort {
			all = append(all, d.path+incompleteEnding, d.path+holesEnding)
		}
	}
	for _, f := range r.files {
		all = append(all, f.path)
	}
	if r.memory != nil {
		all = append(all, r.memory.path)
	}
	if r.definable() {
		all = append(all, r.Definer.Writes(r.Dir)...)
	}
	return all
}

// freeSpace asks the file system that will hold dir, which need not exist yet.
func freeSpace(dir string) (free int64, at string, err error) {
	at, err = filepath.Abs(dir)
	if err != nil {
		return 0, dir, fmt.Errorf("find folder: %w", err)
	}
	for {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, at, nil
		}
		parent := filepath.Dir(at)
		if !errors.Is(err, unix.ENOENT) || parent == at {
			return 0, at, fmt.Errorf("ask for free space of %s: %w", at, err)
		}
		at = parent
	}
}

func (r *restore) writeDisks(ctx context.Context) error {
	var total int64
	for _, d := range r.disks {
		total += d.Root.Data
	}
	progress := meter(r.Now, total, func(done int64) {
		r.result.Bytes = done
		r.emit(Event{Step: StepWriting, Done: done, Total: total})
	})
	for i := range r.disks {
		d := &r.disks[i]
		var err error
		if d.target, err = r.Images.Create(ctx, d.written(r.BestEffort), d.format, d.Root.Size, r.Overwrite); err != nil {
			return fmt.Errorf("create disk %s: %w", d.Name, err)
		}
		if err := r.writeDisk(ctx, d, transport.Options{Workers: r.Workers, Progress: progress}); err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	if len(r.result.Incomplete) == 0 {
		r.result.Bytes = total
	}
	return nil
}

func (r *restore) writeDisk(ctx context.Context, d *restoreDisk, o transport.Options) error {
	if !r.BestEffort {
		return transport.Restore(ctx, r.Repository, d.Root, d.target, o)
	}
	holes, err := transport.Salvage(ctx, r.Repository, d.Root, d.target, o)
	if err != nil {
		return err
	}
	return r.leaveHoles(d, holes)
}

// writeFiles stages the small files; they get their names with the disks.
func (r *restore) writeFiles(ctx context.Context) error {
	for _, f := range r.files {
		data, err := transport.RestoreBytes(ctx, r.Repository, f.Root, snapshot.MaxFileSize)
		if err != nil && r.dropFile(f.File, err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s file: %w", f.Role, err)
		}
		s, err := r.stageBytes(f.path, data)
		if err != nil {
			return fmt.Errorf("%s file: %w", f.Role, err)
		}
		r.staged = append(r.staged, s)
		r.written = append(r.written, snapshot.RestoredFile{File: f.File.File, Now: f.path})
	}
	return nil
}

// definable reports whether the VM can be made startable: its hardware is known.
func (r *restore) definable() bool { return r.Definer != nil && r.Point.Hardware.Hypervisor != "" }

func (r *restore) define(ctx context.Context) error {
	if !r.definable() {
		return nil
	}
	// A disk with holes is named as if it were whole: the VM does not start until
	// somebody has renamed it.
	var disks []snapshot.RestoredDisk
	for _, d := range r.disks {
		disks = append(disks, d.restored())
	}
	err := r.Definer.Define(ctx, r.Dir, snapshot.Restored{
		Name: r.Point.VM, Hardware: r.Point.Hardware, Disks: disks, Files: r.written, Overwrite: r.Overwrite,
	})
	if err != nil {
		err = fmt.Errorf("describe the VM for this host: %w", err)
	}
	if err != nil && !errors.Is(err, snapshot.ErrNoMemory) {
		return err
	}
	r.result.Start = r.Definer.Writes(r.Dir)
	// It may have handed one on, such as the memory to the hypervisor.
	r.result.Files = slices.DeleteFunc(slices.Clone(r.result.Files), func(f snapshot.RestoredFile) bool {
		_, err := os.Lstat(f.Now)
		return errors.Is(err, fs.ErrNotExist)
	})
	return err
}

func (r *restore) emit(e Event) {
	e.Time, e.VM = r.Now(), r.Point.VM
	if r.Observe != nil {
		r.Observe(e)
	}
}
