package filesystem

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// Name of the writer.
const Name = "filesystem"

// Tries of a thaw come faster at first.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

const (
	hintFroze  = "see in the guest agent's log why it froze no file system"
	hintChosen = "put mount_points of the group right: one for each file system, as the guest's own list of mounts has it"
)

// Settings of the writer. They go to the plugin's process in JSON.
type Settings struct {
	// MountPoints are the file systems that are frozen; empty: all.
	MountPoints []string `json:"mount_points,omitempty"`
}

// Writer freezes the file systems of one guest.
type Writer struct {
	settings Settings
	guest    snapshot.Guest
	hooks    hooks

	mu     sync.Mutex
	frozen int  // by the last Freeze that went well; 0 after a thaw
	begun  bool // this Writer knows what was done before: an attempt began, or the guest was proven thawed
	asked  bool // a freeze was asked for, and the guest is not proven thawed since
}

// New is the writer of a guest; nil is a VM without a way into its guest.
func New(s Settings, guest snapshot.Guest) *Writer { return &Writer{settings: s, guest: guest} }

// Serve is the main function of the plugin; settings in JSON, or nothing.
func Serve(settings string) error {
	return inguest.Serve(settings, func(g snapshot.Guest, s Settings) *Writer { return New(s, g) })
}

var (
	_ quiesce.Writer = (*Writer)(nil)
	_ sdk.Connector  = (*Writer)(nil)
)

// Connect gets the guest where the writer is a plugin.
func (w *Writer) Connect(_ context.Context, g sdk.Guest) error {
	w.guest = g
	return nil
}

// Identify does not ask the guest.
func (w *Writer) Identify(context.Context) (quiesce.Identity, error) {
	return quiesce.Identity{Name: Name, Version: "1", Tier: quiesce.System, Level: quiesce.LevelFilesystem}, nil
}

// Prepare finds out whether the guest answers, while there is time.
func (w *Writer) Prepare(ctx context.Context, _ quiesce.PrepareRequest) ([]quiesce.Component, error) {
	if w.guest == nil {
		return nil, failure(snapshot.ErrNoGuest)
	}
	w.begin()
	if _, err := w.guest.Info(ctx); err != nil {
		return nil, failure(err)
	}
	w.hooks.mark(ctx, w)
	var chosen []quiesce.Component
	for _, m := range w.settings.MountPoints {
		chosen = append(chosen, quiesce.Component{Name: m, Files: []string{m}})
	}
	return chosen, nil
}

// Freeze freezes the file systems of the guest, all or those that were chosen.
func (w *Writer) Freeze(ctx context.Context, _ quiesce.Request) error {
	if w.guest == nil {
		return failure(snapshot.ErrNoGuest)
	}
	w.ask()
	n, err := w.guest.FreezeFilesystems(ctx, w.settings.MountPoints)
	if err != nil {
		return failure(err)
	}
	if n == 0 {
		return &quiesce.Failure{Writer: Name, Err: errors.New("not quiesced: the guest froze no file system"), Next: hintFroze}
	}
	// The agent passes over in silence what is no mount point.
	if chosen := len(w.settings.MountPoints); n < chosen {
		return &quiesce.Failure{Writer: Name, Err: fmt.Errorf("not quiesced: the guest froze %d of the %d file systems that were chosen", n, chosen), Next: hintChosen}
	}
	w.setFrozen(n)
	return nil
}

// Thaw thaws every file system of the guest.
func (w *Writer) Thaw(ctx context.Context, _ quiesce.Request) (quiesce.ThawResult, error) {
	if w.guest == nil {
		return quiesce.ThawResult{}, failure(snapshot.ErrNoGuest)
	}
	n, err := w.guest.ThawFilesystems(ctx)
	if err != nil {
		return quiesce.ThawResult{}, failure(err)
	}
	// A writer that was restarted since does not know how many there were.
	return quiesce.ThawResult{Held: n > 0 && n >= w.setFrozen(0)}, nil
}

// Abort thaws until the guest says that nothing is frozen.
func (w *Writer) Abort(ctx context.Context, _ quiesce.Request) error {
	if w.guest == nil || w.clean() {
		return nil
	}
	err := quiesce.Insist(ctx, firstPause, lastPause, func() (bool, error) {
		err := w.thawOnce(ctx)
		if errors.Is(err, snapshot.ErrGone) || errors.Is(err, snapshot.ErrNoGuest) {
			err = nil
		}
		return !errors.Is(err, sdk.ErrDenied), err // what is denied will be
	})
	if err != nil {
		return failure(fmt.Errorf("thaw guest: %w", err))
	}
	w.proven()
	return nil
}

func (w *Writer) thawOnce(ctx context.Context) error {
	if _, err := w.guest.ThawFilesystems(ctx); err != nil {
		return err
	}
	frozen, err := w.guest.FilesystemsFrozen(ctx)
	if err == nil && frozen {
		err = errors.New("file systems are still frozen")
	}
	return err
}

// PostSnapshot has no document. It asks the guest, now that there is time, whether
// anything is left for an Abort, as QEMU may stop a guest before that comes; and
// whether its hooks failed.
func (w *Writer) PostSnapshot(ctx context.Context, _ quiesce.Request) ([]byte, error) {
	if w.guest == nil {
		return nil, nil
	}
	if frozen, err := w.guest.FilesystemsFrozen(ctx); err == nil && !frozen {
		w.proven()
	}
	return nil, w.hooks.failed(ctx, w)
}

// Complete has nothing to do.
func (w *Writer) Complete(context.Context, quiesce.CompleteRequest) error { return nil }

// PreRestore has nothing to do.
func (w *Writer) PreRestore(context.Context, quiesce.RestoreRequest) error { return nil }

// PostRestore has nothing to do.
func (w *Writer) PostRestore(context.Context, quiesce.RestoreRequest) error { return nil }

func (w *Writer) setFrozen(n int) (before int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, w.frozen = w.frozen, n
	return before
}

// What an earlier process of a new Writer did is not known, so its Abort asks the
// guest. Once an attempt has begun, only a freeze that was asked for leaves
// something to undo: without one, Abort does not wait for a guest that is silent.

func (w *Writer) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun = true
}

func (w *Writer) ask() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = true
}

func (w *Writer) clean() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begun && !w.asked
}

// proven notes that the guest says itself that nothing is frozen.
func (w *Writer) proven() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen, w.begun, w.asked = 0, true, false
}

// failure types a guest's error.
func failure(err error) error { return inguest.Fail(Name, err) }
