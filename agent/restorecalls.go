package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// restoreCallTimeout bounds one call of a writer around a restore.
const restoreCallTimeout = 10 * time.Minute

// RestoreWriter starts the writer of that name, without a guest: none runs yet. A nil
// writer is one that this host does not have.
type RestoreWriter func(ctx context.Context, name string) (w quiesce.Writer, stop func() error, err error)

// restoreWriter is a writer of the point that hears of its restore.
type restoreWriter struct {
	quiesce.WriterReport
	writer quiesce.Writer
	stop   func() error
}

// preRestore starts the writers of the point and hands each its document. One that this
// host does not have is warned of where it has left a document; one that fails ends the
// restore, before anything is written.
func (r *restore) preRestore(ctx context.Context) error {
	if r.Writer == nil {
		return nil
	}
	for _, report := range r.Point.Quiesce.Writers {
		name := report.Identity.Name
		w, stop, err := r.Writer(ctx, name)
		if err != nil {
			return fmt.Errorf("start writer %s: %w", name, err)
		}
		if w == nil {
			if len(report.Document) > 0 {
				r.warn(fmt.Sprintf("writer %s is not on this host: the document that it left in the restore point was not handed back", name))
			}
			continue
		}
		r.writers = append(r.writers, restoreWriter{report, w, stop})
		if err := r.tell(ctx, report, w.PreRestore); err != nil {
			return snapshot.WithHint(fmt.Errorf("pre-restore: %w", err), withoutWriters(err))
		}
	}
	return nil
}

// withoutWriters is the hint of a writer that stands in the way, and how to do without.
func withoutWriters(err error) string {
	const way = "--without-writers restores without asking"
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		return h.Hint() + "; " + way
	}
	return way
}

// postRestore tells the writers that all is there. The restore is as good without them.
func (r *restore) postRestore(ctx context.Context) {
	for _, w := range r.writers {
		if err := r.tell(ctx, w.WriterReport, w.writer.PostRestore); err != nil {
			r.warn(fmt.Sprintf("post-restore: %v", err))
		}
	}
}

func (r *restore) tell(ctx context.Context, report quiesce.WriterReport, call func(context.Context, quiesce.RestoreRequest) error) error {
	ctx, cancel := context.WithTimeout(ctx, restoreCallTimeout)
	defer cancel()
	ctx, stop := quiesce.Listen(ctx, report.Identity.Name, func(p quiesce.Progress) { r.emit(writerEvent(p)) })
	defer stop()
	err := call(ctx, quiesce.RestoreRequest{VM: r.Point.VM, Point: r.Point.ID, Document: report.Document})
	var f *quiesce.Failure
	if errors.As(err, &f) && f.Class == quiesce.NotPresent {
		return nil
	}
	return err
}

// stopWriters ends them, the last one first.
func (r *restore) stopWriters() error {
	var errs []error
	for _, w := range slices.Backward(r.writers) {
		errs = append(errs, w.stop())
	}
	return errors.Join(errs...)
}

func (r *restore) warn(message string) {
	r.result.Warnings = append(r.result.Warnings, message)
	r.emit(Event{Step: StepWarning, Message: message})
}
