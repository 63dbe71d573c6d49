package mem_test

import (
	"errors"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/blobtest"
	"github.com/lull-backup/lull/transport/blob/mem"
)

func TestStore(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return mem.New() })
}

func TestCloneChangesOnItsOwn(t *testing.T) {
	m := mem.New()
	if err := m.Create(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	c := m.Clone()
	m.Damage("a", func(b []byte) []byte { return append(b, '2') })
	if err := m.Create(t.Context(), "b", nil); err != nil {
		t.Fatal(err)
	}
	got, err := c.Read(t.Context(), "a", 0, -1)
	if err != nil || string(got) != "1" || len(c.Names()) != 1 {
		t.Fatalf("%q, %v, %v", got, err, c.Names())
	}
	got, err = m.Read(t.Context(), "a", 0, -1)
	if err != nil || string(got) != "12" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestSameNonceIsTheSameCreation(t *testing.T) {
	m := mem.New()
	ctx := blob.WithNonce(t.Context())
	for range 2 {
		if err := m.Create(ctx, "a", []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLocks(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	open := func(*testing.T) blob.Locker {
		return mem.NewLocking(func() time.Time { return now }, blob.Locking{Enabled: true})
	}
	blobtest.RunLocks(t, open, func(d time.Duration) { now = now.Add(d) })
}

func TestNoLocks(t *testing.T) {
	m := mem.New()
	ctx := blob.WithLock(t.Context(), blob.Lock{Mode: blob.Governance, Until: time.Now().Add(time.Hour)})
	if err := m.Create(ctx, "a", nil); !errors.Is(err, blob.ErrNoLocks) || len(m.Names()) > 0 {
		t.Errorf("%v, %v", err, m.Names())
	}
}
