package script

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// Settings are those of one pair of scripts. They go to the plugin's process in JSON.
type Settings struct {
	Name string `json:"name"`
	// Host: the scripts are this host's; else the guest's.
	Host   bool     `json:"host,omitempty"`
	Freeze []string `json:"freeze"`         // absolute path and arguments
	Thaw   []string `json:"thaw,omitempty"` // empty: there is nothing to undo
	// Limit of each run; whole seconds, the rest is rounded up.
	Limit time.Duration `json:"limit"`
	Tier  quiesce.Tier  `json:"tier"`
	// State is the folder for scripts of this host; those of a guest have theirs there.
	State string `json:"state,omitempty"`
}

// DefaultLimit is how long a script may take.
const DefaultLimit = 5 * time.Second

// guestState is where a guest keeps what was begun. It is empty after a boot.
const guestState = "/run/lull/scripts"

// executor runs programs where the scripts are.
type executor interface {
	Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error)
}

// Writer runs the scripts for one guest.
type Writer struct {
	settings Settings
	exec     executor // nil: no way into the guest
	guest    sdk.Guest
	turns    turns

	mu       sync.Mutex
	known    bool // this process knows what was done before
	asked    bool // a freeze was asked for, and no thaw went well since
	document document
}

// document is what the scripts printed, for the restore point.
type document struct {
	Freeze string `json:"freeze,omitempty"`
	Thaw   string `json:"thaw,omitempty"`
}

// New is the writer of a guest; nil is a VM without a way into its guest.
func New(s Settings, guest sdk.Guest) *Writer {
	if s.Limit <= 0 {
		s.Limit = DefaultLimit
	}
	w := &Writer{settings: s}
	w.reach(guest)
	return w
}

// Serve is the main function of the plugin; settings in JSON.
func Serve(settings string) error {
	return inguest.Serve(settings, func(g snapshot.Guest, s Settings) *Writer { return New(s, g) })
}

var (
	_ quiesce.Writer = (*Writer)(nil)
	_ sdk.Connector  = (*Writer)(nil)
)

func (w *Writer) reach(g sdk.Guest) {
	w.guest = g
	switch {
	case w.settings.Host:
		w.exec = host{}
	case g != nil:
		w.exec = g
	}
}

// Connect gets the guest where the writer is a plugin.
func (w *Writer) Connect(_ context.Context, g sdk.Guest) error {
	w.reach(g)
	return nil
}

// Identify asks nobody.
func (w *Writer) Identify(context.Context) (quiesce.Identity, error) {
	return quiesce.Identity{Name: w.settings.Name, Version: "1", Tier: w.settings.Tier, Level: quiesce.LevelApplication}, nil
}

// Prepare looks for the scripts, and undoes what an earlier lull may have left.
func (w *Writer) Prepare(ctx context.Context, r quiesce.PrepareRequest) ([]quiesce.Component, error) {
	if err := w.present(ctx); err != nil {
		return nil, err
	}
	if _, err := w.thaw(ctx, r.Request); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.document = document{}
	return nil, nil
}

// Freeze runs the freeze script.
func (w *Writer) Freeze(ctx context.Context, r quiesce.Request) error {
	if w.exec == nil {
		return w.absent(snapshot.ErrNoGuest)
	}
	w.note(true)
	args := []string{w.state(r), w.turns.next(), w.limit(), seconds(inguest.Longest), thawProgram(), strconv.Itoa(len(w.settings.Freeze))}
	args = append(append(args, w.settings.Freeze...), w.settings.Thaw...)
	v, err := w.run(ctx, r, freezeProgram(), args)
	if err != nil {
		return err
	}
	w.keep(func(d *document) { d.Freeze = v.output })
	return w.judge("freeze", w.settings.Freeze, v)
}

// Thaw runs the thaw script.
func (w *Writer) Thaw(ctx context.Context, r quiesce.Request) (quiesce.ThawResult, error) {
	held, err := w.thaw(ctx, r)
	return quiesce.ThawResult{Held: held}, err
}

// Abort runs the thaw script where a freeze script was begun.
func (w *Writer) Abort(ctx context.Context, r quiesce.Request) error {
	if w.clean() {
		return nil
	}
	_, err := w.thaw(ctx, r)
	if errors.Is(err, snapshot.ErrGone) || errors.Is(err, snapshot.ErrNoGuest) {
		return nil
	}
	return err
}

func (w *Writer) thaw(ctx context.Context, r quiesce.Request) (held bool, err error) {
	if w.exec == nil {
		return false, w.absent(snapshot.ErrNoGuest)
	}
	args := append([]string{w.state(r), w.turns.next(), w.limit()}, w.settings.Thaw...)
	v, err := w.run(ctx, r, thawProgram(), args)
	if err != nil {
		return false, err
	}
	if v.is == verdictNone {
		w.note(false)
		return false, nil
	}
	w.keep(func(d *document) { d.Thaw = v.output })
	if err := w.judge("thaw", w.settings.Thaw, v); err != nil {
		return false, err
	}
	w.note(false)
	return v.held, nil
}

// PostSnapshot returns what the scripts printed.
func (w *Writer) PostSnapshot(context.Context, quiesce.Request) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.document == (document{}) {
		return nil, nil
	}
	return json.Marshal(w.document)
}

// Complete has nothing to do.
func (w *Writer) Complete(context.Context, quiesce.CompleteRequest) error { return nil }

// PreRestore has nothing to do.
func (w *Writer) PreRestore(context.Context, quiesce.RestoreRequest) error { return nil }

// PostRestore has nothing to do.
func (w *Writer) PostRestore(context.Context, quiesce.RestoreRequest) error { return nil }

// state is the folder that remembers what was begun for this VM.
func (w *Writer) state(r quiesce.Request) string {
	if !w.settings.Host {
		return guestState + "/" + w.settings.Name
	}
	vm := sha256.Sum256([]byte(r.VM))
	return filepath.Join(w.settings.State, w.settings.Name, hex.EncodeToString(vm[:8]))
}

func (w *Writer) limit() string { return seconds(w.settings.Limit) }

func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// What an earlier process did is not known, so the first Abort of a new one looks. Later
// only a freeze that was asked for leaves something to undo: without one, Abort does not
// wait for a guest that is silent.

func (w *Writer) note(asked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known, w.asked = true, asked
}

func (w *Writer) clean() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known && !w.asked
}

func (w *Writer) keep(change func(*document)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.document)
}
