package snapshot

import "context"

// Saver is a Host that can take a VM's memory and device state together with its
// disks: what hibernation gives a guest that cannot hold still.
type Saver interface {
	Host

	// CanSave says why TakeSaved would not do for this plan, as far as can be
	// seen: nil, it would. It changes nothing. After Prepare.
	CanSave(ctx context.Context, p Plan) error

	// TakeSaved is Take of a VM that stands still meanwhile, and saves its memory
	// and device state, as of the same instant, into the plan's file. Whatever
	// happens, on return the VM runs, or the error says that it could not be
	// resumed; then Merge tries that again, in any process. ErrNotSaved: the disks
	// are frozen, as after Take, but there is no state. Any other error is like
	// one of Take.
	TakeSaved(ctx context.Context, p Plan) error
}

// FrozenState is a Frozen of a Saver.
type FrozenState interface {
	Frozen

	// SavedState opens the state that TakeSaved saved. The caller closes it.
	SavedState(ctx context.Context) (Source, error)
}
