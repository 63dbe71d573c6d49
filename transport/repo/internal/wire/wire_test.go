package wire

import (
	"bytes"
	"errors"
	"testing"
)

func TestPrefix(t *testing.T) {
	p := Prefix(2, NodePack)
	if want := []byte("lullM\x02\x00\x00"); !bytes.Equal(p[:], want) {
		t.Errorf("%q, want %q", p, want)
	}
	for _, c := range []struct {
		format Format
		b      string
		want   error
	}{
		{1, "lullD\x01\x00\x00", nil},
		{2, "lullD\x02\x00\x00", nil},
		{2, "lullD\x02\x00", ErrDamaged},
		{2, "LullD\x02\x00\x00", ErrDamaged},
		{2, "lullX\x02\x00\x00", ErrDamaged},
		{2, "lullD\x00\x00\x00", ErrDamaged},
		{2, "lullD\x01\x00\x00", ErrDamaged},
		{1, "lullD\x02\x00\x00", ErrDamaged},
		{2, "lullD\x03\x00\x00", ErrNewer},
		{2, "lullD\x02\x01\x00", ErrNewer},
		{2, "lullP\x02\x00\x00", ErrDamaged},
	} {
		if err := WantPrefix(c.format, []byte(c.b), DataPack); !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.b, err, c.want)
		}
	}
}

func TestReader(t *testing.T) {
	r := NewReader([]byte{1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 9, 9})
	if r.Byte() != 1 || r.Uint16() != 2 || r.Uint32() != 3 || r.Uint64() != 4 {
		t.Error("fields differ")
	}
	if r.Count(2, 1) != 2 || r.Err() != nil {
		t.Error("a count that fits is refused")
	}
	if err := r.Done(); !errors.Is(err, ErrDamaged) {
		t.Errorf("two bytes left: %v", err)
	}
	if r.Count(1<<31, 1<<31) != 0 || r.Byte() != 0 || !errors.Is(r.Done(), ErrDamaged) {
		t.Error("a count that does not fit is taken")
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5}, 3, uint32(2))
	f.Fuzz(func(t *testing.T, b []byte, n int, count uint32) {
		r := NewReader(b)
		if got := r.Bytes(n); got != nil && len(got) != n {
			t.Errorf("%d bytes, want %d", len(got), n)
		}
		if got := r.Count(count, 7); got*7 > len(b) {
			t.Errorf("count %d of %d bytes", got, len(b))
		}
		r.Name()
		if r.Err() != nil && r.Done() == nil {
			t.Error("done after an error")
		}
	})
}

func TestDocumentsBelongToFormat2(t *testing.T) {
	if _, err := ParsePrefix(1, []byte("lullT\x01\x00\x00")); !errors.Is(err, ErrDamaged) {
		t.Errorf("a tombstone in format 1: %v", err)
	}
	if k, err := ParsePrefix(2, []byte("lullT\x02\x00\x00")); err != nil || k != Tombstone {
		t.Errorf("%q, %v", rune(k), err)
	}
}
