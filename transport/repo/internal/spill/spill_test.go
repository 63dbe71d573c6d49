package spill

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// However many runs there are, and on however many levels, all records come back in
// order, repeated ones too.
func TestSorted(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 11, 639, 641, 50_000} {
		s, err := New(t.TempDir(), 6)
		if err != nil {
			t.Fatal(err)
		}
		s.limit = 10 * 6
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		var want [][]byte
		for range n {
			rec := []byte{byte(rng.IntN(4)), byte(rng.IntN(256)), byte(rng.IntN(256)), 0, 0, 1}
			want = append(want, rec)
			if err := s.Add(rec); err != nil {
				t.Fatal(err)
			}
		}
		slices.SortFunc(want, bytes.Compare)
		for range 2 { // it may be read again
			i := 0
			for rec, err := range s.Sorted() {
				if err != nil || i >= n || !bytes.Equal(rec, want[i]) {
					t.Fatalf("%d records: number %d is %x, %v", n, i, rec, err)
				}
				i++
			}
			if i != n {
				t.Errorf("%d records of %d", i, n)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBadRecords(t *testing.T) {
	if _, err := New("", 0); err == nil {
		t.Error("records of no size")
	}
	s, err := New("", 4)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add([]byte{1}); err == nil {
		t.Error("a record of another size")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
