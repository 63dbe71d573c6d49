package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

// LockedError: the store keeps objects from being deleted, and what they are of stays until
// then. It is a blob.ErrLocked.
type LockedError struct {
	Points []string  // ids of restore points that were to be forgotten
	Until  time.Time // when the first of them may go; zero: the store does not say
}

func (e *LockedError) Error() string {
	until := ""
	if !e.Until.IsZero() {
		until = ", the first until " + e.Until.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%v: the store keeps %d restore points%s: %s", blob.ErrLocked, len(e.Points), until, strings.Join(e.Points, ", "))
}

func (e *LockedError) Unwrap() error { return blob.ErrLocked }

func (e *LockedError) add(id string, until time.Time) {
	e.Points = append(e.Points, id)
	e.Until = sooner(e.Until, until)
}

// sooner is the earlier of two times; zero stands for no time.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// locks tells of objects until when the store keeps them from being deleted.
type locks struct {
	store blob.Store
	asked bool
	none  bool // that it would say
}

// until is when an object's lock ends; zero: it has none, or the store does not say. What
// it does not say shows when the object is deleted: that is no more than a late answer.
func (l *locks) until(ctx context.Context, object string, now time.Time) (time.Time, error) {
	if !l.asked {
		locking, err := blob.LockingOf(ctx, l.store)
		if err != nil && !silent(err) {
			return time.Time{}, err
		}
		l.asked, l.none = true, err != nil || !locking.Enabled
	}
	if l.none {
		return time.Time{}, nil
	}
	lock, err := blob.RetentionOf(ctx, l.store, object)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return time.Time{}, nil
	case silent(err):
		l.none = true
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, err
	case !lock.Holds(now):
		return time.Time{}, nil
	}
	return lock.Until, nil
}

// silent tells that a store has no locks, or does not tell who asks.
func silent(err error) bool {
	return errors.Is(err, blob.ErrNoLocks) || errors.Is(err, blob.ErrDenied)
}

// remove deletes an object, unless the store keeps it: that it reports as false.
func remove(ctx context.Context, store blob.Store, object string) (bool, error) {
	err := store.Delete(ctx, object)
	if errors.Is(err, blob.ErrLocked) {
		return false, nil
	}
	return err == nil, err
}
