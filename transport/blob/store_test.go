package blob_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "packs/ab/abcd-0.1_z", strings.Repeat("x", blob.MaxName)} {
		if err := blob.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "a/../b", ".tmp/x", "a/.b", "A", "a b", "ä", "a\x00", `a\b`,
		strings.Repeat("x", blob.MaxName+1),
	} {
		if err := blob.CheckName(name); !errors.Is(err, blob.ErrBadName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestCheckRange(t *testing.T) {
	for _, c := range []struct{ size, off, length, want int64 }{
		{10, 0, 10, 10}, {10, 0, -1, 10}, {10, 10, 0, 0}, {10, 10, -1, 0}, {10, 3, 4, 4}, {0, 0, -1, 0},
		{math.MaxInt64, 1, 5, 5},
	} {
		if n, err := blob.CheckRange(c.size, c.off, c.length); err != nil || n != c.want {
			t.Errorf("%+v: %d, %v", c, n, err)
		}
	}
	for _, c := range []struct{ size, off, length int64 }{
		{10, 0, 11}, {10, 11, 0}, {10, 11, -1}, {10, -1, 1}, {10, 5, math.MaxInt64}, {10, math.MaxInt64, math.MaxInt64},
	} {
		if _, err := blob.CheckRange(c.size, c.off, c.length); !errors.Is(err, blob.ErrRange) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := blob.CheckRange(math.MaxInt64, 0, -1); !errors.Is(err, blob.ErrTooBig) {
		t.Error(err)
	}
}

func TestPermanent(t *testing.T) {
	for err, want := range map[error]bool{
		fmt.Errorf("x: %w", blob.ErrNoSpace): true, blob.ErrUntrusted: true, context.Canceled: true,
		blob.ErrUnreachable: false, context.DeadlineExceeded: false, errors.New("odd"): false,
		blob.WithHint(blob.ErrDenied, "look"): true,
	} {
		if got := blob.Permanent(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestNonce(t *testing.T) {
	one := blob.WithNonce(t.Context())
	first, again := blob.Nonce(one), blob.Nonce(one)
	if other := blob.Nonce(blob.WithNonce(one)); first != again || first == other {
		t.Error("a nonce is one creation's")
	}
	first, again = blob.Nonce(t.Context()), blob.Nonce(t.Context())
	if first == again {
		t.Error("without a nonce, every call is its own")
	}
}
