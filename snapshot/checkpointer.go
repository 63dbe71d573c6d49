package snapshot

import (
	"context"
	"time"
)

// Checkpointer is a Host that keeps checkpoints of its VMs beside their disks: a tree of
// instants to which a VM can go back. They are for tests and development, not backups: they
// live and die with the disks.
//
// The caller holds the VM as for a snapshot: one operation at a time, among all processes.
// Every method but Checkpoints first brings to an end what an interrupted one has left, as
// RecoverCheckpoints does. A checkpoint is named by its name, its ID, or the start of its
// ID; ErrNoCheckpoint: there is none.
type Checkpointer interface {
	Host

	// Checkpoints describes the tree of a VM. It changes nothing, and asks nothing of a
	// VM that does not run.
	Checkpoints(ctx context.Context, vm string) (Checkpoints, error)

	// CreateCheckpoint takes the disks of a running VM, and its memory unless that is not
	// asked for, at one instant. Whatever fails, the VM goes on, and there is no
	// checkpoint; ErrUnsupported: the VM cannot have one, and why.
	CreateCheckpoint(ctx context.Context, vm string, n NewCheckpoint) (Checkpoint, error)

	// ApplyCheckpoint takes the VM back to a checkpoint, which stays as it was. What the
	// VM has done since the newest one is lost.
	ApplyCheckpoint(ctx context.Context, vm, checkpoint string, cold bool) (Checkpoint, error)

	// DeleteCheckpoints removes a checkpoint, or it and all that were made upon it. What
	// the VM and all others hold stays as it is; a running VM goes on meanwhile.
	DeleteCheckpoints(ctx context.Context, vm, checkpoint string, subtree bool) error

	// MergeCheckpoints removes all: afterwards the VM has its disks alone, as they are.
	MergeCheckpoints(ctx context.Context, vm string) error

	// RecoverCheckpoints brings to an end, or takes back, what a process that died was
	// doing. It tells whether there was anything.
	RecoverCheckpoints(ctx context.Context, vm string) (bool, error)
}

// TreeLoser is a Checkpointer whose VMs can go, and leave their checkpoints.
type TreeLoser interface {
	// LostTrees are the trees whose VMs the hypervisor does not have any more.
	LostTrees(ctx context.Context) ([]LostTree, error)
}

// LostTree is the tree of a VM that is not there.
type LostTree struct {
	Path  string
	Files []string // of its checkpoints, and the images of the VM
	Err   error    // why it cannot be read
}

// NewCheckpoint is a checkpoint to be made.
type NewCheckpoint struct {
	Name   string // empty: its ID will do
	Memory bool
	// MaxDepth refuses a checkpoint that would rest upon as many others; 0: any number.
	MaxDepth int
}

// Checkpoint is one of a VM's checkpoints.
type Checkpoint struct {
	ID      string    `json:"id"`
	Name    string    `json:"name,omitempty"`
	Parent  string    `json:"parent,omitempty"`
	Created time.Time `json:"created"`
	Memory  bool      `json:"memory"`
	// Deleted ones are there only because more than one image rests upon theirs.
	Deleted bool  `json:"deleted,omitempty"`
	Size    int64 `json:"size"` // bytes that its files take on their file systems
}

// Checkpoints is the tree of a VM.
type Checkpoints struct {
	VM   string       `json:"vm"`
	List []Checkpoint `json:"checkpoints"` // in the order in which they were made
	// Now is the checkpoint that the VM's own images rest upon; Newest the one that it went
	// on from: the nearest below that was not deleted.
	Now    string `json:"now,omitempty"`
	Newest string `json:"newest,omitempty"`
	// Growth is what the VM's own images take on top of the checkpoint, in bytes.
	Growth int64 `json:"growth"`
	Depth  int   `json:"depth"` // how many checkpoints the VM rests upon
	// Tight is where images have less room than a backup would begin with, and how much.
	Tight string `json:"tight,omitempty"`
	// Pending is an operation that was interrupted; the next one ends it.
	Pending string `json:"pending,omitempty"`
	// Unowned are files beside the disks that look like those of a checkpoint, and that
	// no tree owns; Missing are those that a checkpoint lacks.
	Unowned []string `json:"unowned,omitempty"`
	// Astray are such files that the VM's disks rest upon all the same: its tree is lost.
	Astray  []string `json:"astray,omitempty"`
	Missing []string `json:"missing,omitempty"`
}
