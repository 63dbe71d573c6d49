package snapshot

import "context"

// Host is a hypervisor, or a set of powered-off images, on this machine.
// Its errors say what was tried with which VM.
// All methods are safe for concurrent use on different VMs; lull never runs two
// snapshots of one VM at a time (the agent holds a lock across processes).
type Host interface {
	// VMs lists the VMs that this host serves, sorted by name. A VM that is
	// configured but cannot be reached is listed with StateUnreachable and
	// its Problem; only a failure that concerns the whole host is an error.
	VMs(ctx context.Context) ([]VM, error)

	// Plan looks at one VM and names every side effect that a snapshot for the
	// run would have. It changes nothing. run is unique, at most 64 bytes of
	// [0-9A-Za-z-], and becomes part of file and node names.
	// Errors: ErrNotFound, ErrUnreachable, ErrMergePending (an earlier delta is
	// still in the chain), ErrBusy (another tool holds the VM or its images),
	// ErrCorrupt (an image lies about itself).
	Plan(ctx context.Context, vm, run string) (Plan, error)

	// Prepare creates and opens the deltas, outside the freeze window. On an
	// error the caller calls Merge, which removes what was made.
	Prepare(ctx context.Context, p Plan) error

	// Take freezes all disks of the plan at one instant. It is the one call
	// inside the freeze window: a single command to the hypervisor. When it
	// fails no disk has changed layers, but the caller still calls Merge.
	Take(ctx context.Context, p Plan) error

	// Open opens the frozen disks for reading. It may be called again after
	// the returned Frozen was closed. Not before Take, never during Merge.
	Open(ctx context.Context, p Plan) (Frozen, error)

	// Merge brings the VM back to the chain that it had before Prepare, keeping
	// every guest write, and removes every side effect that the plan names.
	// It returns nil only when that has been seen to be so in the hypervisor's
	// chain and on disk. It may be called any number of times, by any process,
	// after a crash at any moment, with the VM running, paused or gone.
	// ErrDiverged: the VM was started from the wrong layer; nothing was touched.
	// ErrUncertain: it may have been, and nobody can tell; nothing was touched.
	Merge(ctx context.Context, p Plan) error

	// Instance tells the start of a VM that runs now from any other, as
	// Plan.Instance does; empty where that is not known, or nothing runs. What a
	// run did inside a guest has ended with the instance that it was planned for.
	Instance(ctx context.Context, vm string) (string, error)

	// Guest opens the channel into the guest. ErrNoGuest when the VM has none
	// configured or is not running. The caller closes it.
	Guest(ctx context.Context, vm string) (Guest, error)
}

// Frozen is the set of frozen disks of one plan.
type Frozen interface {
	// Disk opens the named disk of the plan. The caller closes the Source.
	Disk(ctx context.Context, name string) (Source, error)

	// File reads a small file that belongs to the VM (Plan.Files) whole. One that
	// the guest writes to (FileRole.Written) is as it was at Take; where it changed at that
	// very moment it is as it was soon after, and ErrInexact comes with its bytes.
	File(ctx context.Context, path string) ([]byte, error)

	// Watch blocks until the VM is in trouble that must end the run (ErrNoSpace:
	// there is, or soon will be, no room for a delta to grow; ErrGone: it powered off,
	// crashed or was taken away), or until ctx ends, whose error it returns.
	// A host whose VMs do not run just waits for ctx. Called once, beside the
	// reading.
	Watch(ctx context.Context) error

	// Close ends every reader and export. After it returns nil the chain may
	// be merged. Safe to call twice.
	Close() error
}

// Source is one frozen disk. Its bytes do not change while it is open.
// All methods are safe for concurrent use.
type Source interface {
	// Size is the virtual size in bytes: a multiple of 512, but for a loose raw
	// image that ends within a sector.
	Size() int64

	// Extents tells what [off, off+length) holds, in order, without gaps or
	// overlaps, clipped to the range. What cannot be told is reported as data.
	Extents(ctx context.Context, off, length int64) ([]Extent, error)

	// ReadAt fills p from off. Reading past the end is an error. A Source whose
	// VM went away fails with ErrGone.
	ReadAt(ctx context.Context, p []byte, off int64) error

	Close() error
}

// Extent is a range of a disk. A Zero extent reads as zeros.
type Extent struct {
	Offset, Length int64
	Zero           bool
}

// Images creates disk images to restore into.
type Images interface {
	// Create starts a new image of a virtual size in bytes. Nothing exists at
	// path until Target.Commit; a file that is already there is ErrExists
	// unless overwrite is set, and is replaced only by Commit.
	Create(ctx context.Context, path string, format Format, size int64, overwrite bool) (Target, error)
}

// Target is a new disk image. It reads as zeros where nothing was written.
type Target interface {
	// WriteAt writes p at off, both multiples of 4096 but at the disk's end.
	// Safe for concurrent use on ranges that do not overlap; a range is written
	// once at most.
	WriteAt(ctx context.Context, p []byte, off int64) error

	// Commit makes the image durable and puts it at its path.
	Commit() error

	// Abort removes everything. After Commit it does nothing.
	Abort() error
}

// Definer makes a restored VM startable on this host.
type Definer interface {
	// Writes names the files that Define puts into dir, so that a restore can
	// refuse before it begins.
	Writes(dir string) []string

	// Define writes into dir what starts the VM from its restored files: for
	// plain QEMU a boot script.
	Define(ctx context.Context, dir string, vm Restored) error
}

// CheckedDefiner is a Definer that can tell early.
type CheckedDefiner interface {
	Definer

	// Check fails where Define would with such a VM, as far as can be seen before it is
	// restored: another VM is in the way, or the hypervisor does not answer. It writes nothing.
	Check(ctx context.Context, name string, hw Hardware) error
}

// Restored is a VM whose files are in place.
type Restored struct {
	Name     string
	Hardware Hardware
	Disks    []RestoredDisk
	Files    []RestoredFile
	// Overwrite allows Define to replace files that are there.
	Overwrite bool
}

// RestoredDisk says where a disk of the hardware description is now.
type RestoredDisk struct {
	Name   string `json:"name"` // Disk.Name
	Path   string `json:"path"`
	Format Format `json:"format"`
	// Decrypted: QEMU encrypted the disk that was backed up, and does not encrypt this one.
	Decrypted bool `json:"decrypted,omitempty"`
}

// RestoredFile says where a small file of the VM is now.
type RestoredFile struct {
	File        // as it was
	Now  string `json:"now"`
}
