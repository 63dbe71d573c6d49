package mem_test

import (
	"testing"

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
