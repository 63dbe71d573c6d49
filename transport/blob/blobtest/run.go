package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/lull-backup/lull/transport/blob"
)

// limit is ample for one test on a busy machine; a store that hangs fails by it.
const limit = 5 * time.Minute

// Run tests the stores that open returns, one empty store for each test. A store
// that is an io.Closer is closed after its test; then none of its goroutines may
// be left.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	tests := []struct {
		name string
		run  func(t *testing.T, k kit)
	}{
		{"Create", create}, {"Empty", empty}, {"Large", large}, {"CreateOnce", createOnce}, {"Race", race},
		{"SameNonce", sameNonce}, {"NoPart", noPart}, {"Ranges", ranges}, {"NotFound", notFound}, {"List", list},
		{"ListMany", listMany}, {"ListStops", listStops}, {"Delete", remove}, {"Names", names},
		{"Cancelled", cancelled}, {"OwnedData", ownedData}, {"String", stringer},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			store := open(t)
			t.Cleanup(func() { // before the clean-ups of open, so that a server is still there
				if c, ok := store.(io.Closer); ok {
					if err := c.Close(); err != nil {
						t.Errorf("close the store: %v", err)
					}
				}
				goleak.VerifyNone(t, before)
			})
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			test.run(t, kit{store, ctx})
		})
	}
}

// kit is a store and the time for one test of it.
type kit struct {
	blob.Store
	ctx context.Context // of one test, whose argument list the kit is
}

func (k kit) put(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := k.Create(k.ctx, name, data); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

func (k kit) want(t *testing.T, name string, data []byte) {
	t.Helper()
	got, err := k.Read(k.ctx, name, 0, -1)
	if err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("read %s: %d bytes, not the %d written", name, len(got), len(data))
	}
}

func (k kit) wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func (k kit) names(t *testing.T, prefix string) []string {
	t.Helper()
	var found []string
	err := k.List(k.ctx, prefix, func(i blob.Info) error {
		found = append(found, i.Name)
		return nil
	})
	if err != nil {
		t.Fatalf("list %q: %v", prefix, err)
	}
	slices.Sort(found)
	return found
}

func (k kit) wantNames(t *testing.T, prefix string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, k.names(t, prefix)); d != "" {
		t.Errorf("list %q (-want +got):\n%s", prefix, d)
	}
}

// noise is n bytes that no store can shrink.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte(bytes.Repeat([]byte{7}, 32)))
	_, _ = r.Read(b) // never fails
	return b
}

func longName() string { return "x/" + strings.Repeat("y", blob.MaxName-2) }
