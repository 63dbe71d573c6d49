package blobtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull-backup/lull/transport/blob"
)

// RunLocks tests the stores that open returns, one empty store with locks for each
// test. pass lets at least that much of the store's time go by: a fake clock is put
// forward, and with a real one there is nothing for it but to wait.
func RunLocks(t *testing.T, open func(t *testing.T) blob.Locker, pass func(time.Duration)) {
	tests := []struct {
		name string
		run  func(t *testing.T, k lockKit)
	}{
		{"Locking", locking}, {"LockedCreate", lockedCreate}, {"Retain", retain}, {"NothingIsWeakened", notWeakened},
		{"LocksEnd", locksEnd}, {"BadLocks", badLocks}, {"UnlockedIsAsEver", unlocked},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			store := open(t)
			t.Cleanup(func() {
				if c, ok := store.(interface{ Close() error }); ok {
					if err := c.Close(); err != nil {
						t.Errorf("close the store: %v", err)
					}
				}
				goleak.VerifyNone(t, before)
			})
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			test.run(t, lockKit{kit{store, ctx}, store, pass})
		})
	}
}

type lockKit struct {
	kit
	locker blob.Locker
	pass   func(time.Duration)
}

// now is the store's time.
func (k lockKit) now(t *testing.T) time.Time {
	t.Helper()
	if err := k.Create(k.ctx, "now", nil); err != nil && !errors.Is(err, blob.ErrExists) {
		t.Fatal(err)
	}
	info, err := k.Stat(k.ctx, "now")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Delete(k.ctx, "now"); err != nil {
		t.Fatal(err)
	}
	return info.Created.Truncate(time.Second)
}

func (k lockKit) putLocked(t *testing.T, name string, l blob.Lock) {
	t.Helper()
	if err := k.Create(blob.WithLock(k.ctx, l), name, []byte(name)); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

func (k lockKit) wantLock(t *testing.T, name string, want blob.Lock) {
	t.Helper()
	got, err := k.locker.Retention(k.ctx, name)
	if err != nil || got.Mode != want.Mode || !got.Until.Equal(want.Until) {
		t.Errorf("lock of %s: %+v, %v, want %+v", name, got, err, want)
	}
}

// wantHeld: what is locked cannot be deleted, and is there.
func (k lockKit) wantHeld(t *testing.T, name string) {
	t.Helper()
	k.wantErr(t, "delete "+name, k.Delete(k.ctx, name), blob.ErrLocked)
	k.want(t, name, []byte(name))
}

func modes() []blob.LockMode { return []blob.LockMode{blob.Governance, blob.Compliance} }

func locking(t *testing.T, k lockKit) {
	l, err := k.locker.Locking(k.ctx)
	if err != nil || !l.Enabled || l.For != 0 {
		t.Errorf("%+v, %v", l, err)
	}
}

func lockedCreate(t *testing.T, k lockKit) {
	until := k.now(t).Add(time.Hour)
	for _, mode := range modes() {
		name, l := "held/"+string(mode), blob.Lock{Mode: mode, Until: until}
		k.putLocked(t, name, l)
		k.wantLock(t, name, l)
		k.wantHeld(t, name)
		k.wantErr(t, "create again", k.Create(k.ctx, name, nil), blob.ErrExists)
		k.wantErr(t, "create again with a lock", k.Create(blob.WithLock(k.ctx, l), name, nil), blob.ErrExists)
		k.wantHeld(t, name)
	}
}

func retain(t *testing.T, k lockKit) {
	now := k.now(t)
	for _, mode := range modes() {
		name := "kept/" + string(mode)
		k.put(t, name, []byte(name))
		k.wantLock(t, name, blob.Lock{})
		for _, hours := range []time.Duration{1, 5, 3} { // the last would shorten it
			if err := k.locker.Retain(k.ctx, name, blob.Lock{Mode: mode, Until: now.Add(hours * time.Hour)}); err != nil {
				t.Fatalf("%v hours: %v", int(hours), err)
			}
			k.wantHeld(t, name)
		}
		k.wantLock(t, name, blob.Lock{Mode: mode, Until: now.Add(5 * time.Hour)})
	}
	err := k.locker.Retain(k.ctx, "none", blob.Lock{Mode: blob.Governance, Until: now.Add(time.Hour)})
	k.wantErr(t, "lock what is not there", err, blob.ErrNotFound)
	_, err = k.locker.Retention(k.ctx, "none")
	k.wantErr(t, "look at the lock of what is not there", err, blob.ErrNotFound)
}

func notWeakened(t *testing.T, k lockKit) {
	now := k.now(t)
	at := func(mode blob.LockMode, hours time.Duration) blob.Lock {
		return blob.Lock{Mode: mode, Until: now.Add(hours * time.Hour)}
	}
	k.putLocked(t, "strict", at(blob.Compliance, 2))
	for _, l := range []blob.Lock{at(blob.Governance, 1), at(blob.Governance, 2)} {
		if err := k.locker.Retain(k.ctx, "strict", l); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
		k.wantLock(t, "strict", at(blob.Compliance, 2))
	}
	if err := k.locker.Retain(k.ctx, "strict", at(blob.Governance, 3)); err != nil {
		t.Errorf("a longer one of another mode: %v", err)
	}
	k.wantLock(t, "strict", at(blob.Compliance, 3))
	k.putLocked(t, "mild", at(blob.Governance, 2))
	k.wantErr(t, "a stricter mode", k.locker.Retain(k.ctx, "mild", at(blob.Compliance, 3)), blob.ErrLocked)
	k.wantLock(t, "mild", at(blob.Governance, 2))
}

// locksEnd: an object goes once its lock is over, and not before.
func locksEnd(t *testing.T, k lockKit) {
	const short = 4 * time.Second
	until := k.now(t).Add(short)
	for _, mode := range modes() {
		k.putLocked(t, "short/"+string(mode), blob.Lock{Mode: mode, Until: until})
	}
	for _, mode := range modes() {
		k.wantHeld(t, "short/"+string(mode))
	}
	k.pass(short + 2*time.Second)
	for _, mode := range modes() {
		name := "short/" + string(mode)
		if err := k.Delete(k.ctx, name); err != nil {
			t.Errorf("delete %s after its lock: %v", name, err)
		}
		_, err := k.Stat(k.ctx, name)
		k.wantErr(t, "stat "+name, err, blob.ErrNotFound)
	}
}

func badLocks(t *testing.T, k lockKit) {
	k.put(t, "here", nil)
	for _, l := range []blob.Lock{{Mode: blob.Governance}, {Until: k.now(t).Add(time.Hour)}, {Mode: "odd", Until: k.now(t).Add(time.Hour)}} {
		k.wantErr(t, "create", k.Create(blob.WithLock(k.ctx, l), "new", nil), blob.ErrBadLock)
		k.wantErr(t, "lock", k.locker.Retain(k.ctx, "here", l), blob.ErrBadLock)
	}
	k.wantNames(t, "", "here")
}

// unlocked objects come and go as in any store, also where older versions are kept.
func unlocked(t *testing.T, k lockKit) {
	createOnce(t, k.kit)
	if err := k.Delete(k.ctx, "a/once"); err != nil {
		t.Error(err)
	}
	remove(t, k.kit)
}
