package probe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

// facts is what the store says of its locks.
func (p *prober) facts(ctx context.Context) (blob.Locking, error) {
	l, err := blob.LockingOf(ctx, p.store)
	if errors.Is(err, blob.ErrNoLocks) {
		return blob.Locking{}, nil
	}
	return l, err
}

func (p *prober) versions(ctx context.Context) (string, error) {
	l, err := p.facts(ctx)
	if err != nil {
		return "", err
	}
	if !l.Versioned {
		return missing("what is overwritten or deleted is gone")
	}
	return "what others overwrite or delete can be brought back by `lull repo undelete`", nil
}

func (p *prober) locks(ctx context.Context) (string, error) {
	l, err := p.facts(ctx)
	if err != nil {
		return "", err
	}
	if !l.Enabled {
		return missing("the store has none")
	}
	if p.o.Lock == "" {
		return "the store has it; set object_lock to use it", nil
	}
	return p.tryLock(ctx)
}

// tryLock locks an object for some seconds, tries to be rid of it, and waits.
func (p *prober) tryLock(ctx context.Context) (string, error) {
	now, err := p.measure(ctx)
	if err != nil {
		return "", err
	}
	mode, name := p.o.Lock, p.name("locked-", p.o.Lock)
	lock := blob.Lock{Mode: mode, Until: now.Add(lockTime)}
	if err := p.store.Create(blob.WithLock(ctx, lock), name, []byte("locked")); errors.Is(err, blob.ErrNoLocks) {
		return missing("%v", err)
	} else if err != nil {
		return "", err
	}
	if detail, err := p.held(ctx, name); err != nil {
		return detail, err
	}
	longer := blob.Lock{Mode: mode, Until: lock.Until.Add(2 * time.Second)}
	if err := blob.Retain(ctx, p.store, name, longer); err != nil {
		return missing("a %s lock cannot be made longer: %v", mode, err)
	}
	got, err := blob.RetentionOf(ctx, p.store, name)
	if err != nil || got.Mode != mode || got.Until.Before(longer.Until) {
		return missing("a %s lock until %v reads as %+v: %v", mode, longer.Until, got, err)
	}
	if detail, err := p.held(ctx, name); err != nil {
		return detail, err
	}
	return p.awaitEnd(ctx, name)
}

// held tries to delete what is locked.
func (p *prober) held(ctx context.Context, name string) (string, error) {
	err := p.store.Delete(ctx, name)
	switch {
	case err == nil:
		return missing("an object under a %s lock was deleted", p.o.Lock)
	case errors.Is(err, blob.ErrDenied):
		return missing("what became of a delete under a lock cannot be told: %v", err)
	case !errors.Is(err, blob.ErrLocked):
		return "", err
	}
	return "", nil
}

// awaitEnd waits until the lock is over, which the object's deletion shows.
func (p *prober) awaitEnd(ctx context.Context, name string) (string, error) {
	deadline := time.NewTimer(lockTime + lockPatience)
	defer deadline.Stop()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.store.Delete(ctx, name)
		if err == nil {
			return fmt.Sprintf("a %s lock holds, is extended, and ends", p.o.Lock), nil
		}
		if !errors.Is(err, blob.ErrLocked) {
			return "", err
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return fmt.Sprintf("a %s lock holds and is extended; its end was not seen", p.o.Lock), nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (p *prober) defaultRetention(ctx context.Context) (string, error) {
	l, err := p.facts(ctx)
	if err != nil {
		return "", err
	}
	if l.For > 0 {
		detail := fmt.Sprintf("the bucket locks every new object for %d days (%s)", int(l.For/(24*time.Hour)), l.Mode)
		if p.o.Period > 0 && l.For > p.o.Period {
			detail += fmt.Sprintf(", longer than object_lock's %d", int(p.o.Period/(24*time.Hour)))
		}
		return detail, errMissing
	}
	return "none", nil
}
