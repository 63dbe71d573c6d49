package count_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/blobtest"
	"github.com/lull-backup/lull/transport/blob/count"
	"github.com/lull-backup/lull/transport/blob/mem"
)

func TestStore(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return count.New(mem.New()) })
}

func TestTotals(t *testing.T) {
	s := count.New(mem.New())
	ctx := t.Context()
	_ = s.Create(ctx, "a", make([]byte, 10))
	earlier := s.Totals()
	_ = s.Create(ctx, "a", make([]byte, 10))
	_ = s.Create(ctx, "b", make([]byte, 5))
	_, _ = s.Read(ctx, "a", 2, 3)
	_, _ = s.Read(ctx, "none", 0, -1)
	_, _ = s.Stat(ctx, "a")
	_ = s.List(ctx, "", func(blob.Info) error { return nil })
	_ = s.Delete(ctx, "a")
	want := count.Totals{Requests: 7, Failed: 2, Created: 1, Deleted: 1, Written: 5, Read: 3}
	if d := cmp.Diff(want, s.Totals().Sub(earlier)); d != "" {
		t.Error(d)
	}
}
