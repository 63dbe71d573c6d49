package checkpoint

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
)

// Work is a host's part of operations on the tree of one VM.
type Work interface {
	Tree() *Tree
	// Paths are all files of a checkpoint.
	Paths(*Node) []string

	// Recover brings to an end, or takes back, what was interrupted, and tells whether there
	// was anything. Nothing else is begun before.
	Recover(context.Context) (bool, error)
	// Create makes a checkpoint of the VM as it is, and returns its ID.
	Create(context.Context, snapshot.NewCheckpoint) (string, error)
	// Apply takes the VM back; cold: without the memory.
	Apply(ctx context.Context, n Node, cold bool) error
	// Remove deletes checkpoints by their IDs.
	Remove(ctx context.Context, ids []string) error
}

// On does fn with the tree of a VM, while nobody else works on it.
type On[W Work] func(ctx context.Context, vm string, fn func(W) error) error

// operate brings to an end what was interrupted, and then does fn.
func (on On[W]) operate(ctx context.Context, vm, what string, fn func(W) error) error {
	err := on(ctx, vm, func(w W) error {
		if _, err := w.Recover(ctx); err != nil {
			return err
		}
		return fn(w)
	})
	if err != nil {
		return fmt.Errorf("%s of %s: %w", what, vm, err)
	}
	return nil
}

// Create is a host's CreateCheckpoint.
func (on On[W]) Create(ctx context.Context, vm string, n snapshot.NewCheckpoint) (made snapshot.Checkpoint, err error) {
	err = on.operate(ctx, vm, "create checkpoint", func(w W) error {
		id, err := w.Create(ctx, n)
		if err == nil {
			made = describe(w, w.Tree().Find(id))
		}
		return err
	})
	return made, err
}

// Apply is a host's ApplyCheckpoint.
func (on On[W]) Apply(ctx context.Context, vm, ref string, cold bool) (applied snapshot.Checkpoint, err error) {
	err = on.operate(ctx, vm, "apply checkpoint", func(w W) error {
		n, err := w.Tree().Resolve(ref)
		if err != nil {
			return err
		}
		applied = describe(w, n)
		return w.Apply(ctx, *n, cold)
	})
	return applied, err
}

// Delete is a host's DeleteCheckpoints.
func (on On[W]) Delete(ctx context.Context, vm, ref string, subtree bool) error {
	return on.operate(ctx, vm, "delete checkpoint", func(w W) error {
		gone, err := w.Tree().Chosen(ref, subtree)
		if err != nil {
			return err
		}
		return w.Remove(ctx, gone)
	})
}

// Merge is a host's MergeCheckpoints.
func (on On[W]) Merge(ctx context.Context, vm string) error {
	return on.operate(ctx, vm, "merge checkpoints", func(w W) error { return w.Remove(ctx, w.Tree().All()) })
}

// NewID names a checkpoint.
func NewID() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
