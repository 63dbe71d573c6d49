package index

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"

	"github.com/lull-backup/lull/transport/block"
)

// fanIn runs of like size are merged into one.
const fanIn = 4

// runs is a set of runs, the largest first: that is where a look-up most likely
// hits. It has no lock of its own.
type runs []*run

// hit is the outcome of a look-up: the first place in a pack that is not doubted
// or, without one, the first.
type hit struct {
	doubted map[[32]byte]struct{} // packs
	loc     Location
	found   bool
	good    bool // found in a pack that is not doubted
}

// at notes a place, unless a better one is known.
func (h *hit) at(loc Location) {
	_, doubted := h.doubted[loc.Pack]
	if !h.found || !doubted {
		h.loc, h.found, h.good = loc, true, !doubted
	}
}

// lookup completes h.
func (rs runs) lookup(name *block.Name, h *hit) error {
	if len(rs) == 0 {
		return nil
	}
	err := guard(func() error {
		for _, r := range rs {
			if err := r.lookup(name, h); h.good || err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look up block: %w", err)
	}
	return nil
}

// with returns rs without gone and with r, in order.
func (rs runs) with(r *run, gone runs) runs {
	next := slices.DeleteFunc(slices.Clone(rs), func(o *run) bool { return slices.Contains(gone, o) })
	if r != nil {
		next = append(next, r)
	}
	slices.SortStableFunc(next, func(a, b *run) int { return cmp.Compare(b.count, a.count) })
	return next
}

func (rs runs) count() (n uint64) {
	for _, r := range rs {
		n += r.count
	}
	return n
}

// tier puts runs of like size together: each is four times the one before it.
func (r *run) tier() int { return bits.Len64(r.count/1024) / 2 }

// due is the runs to merge next: the fullest tier from below that has fanIn of
// them, and everything smaller. None when all is well.
func (rs runs) due() runs {
	var inTier [33]int
	for _, r := range rs {
		inTier[r.tier()]++
	}
	for t, n := range inTier {
		if n < fanIn {
			continue
		}
		i := slices.IndexFunc(rs, func(r *run) bool { return r.tier() <= t })
		if due := rs[i:]; due.count() <= maxEntries {
			return due
		}
	}
	return nil
}

// merge writes rs as one run: with all their sources if named, else without name.
func (rs runs) merge(ctx context.Context, dir string, named bool) (out *run, err error) {
	inputs := make([]sorted, len(rs))
	var sources []Source
	if named {
		sources = []Source{}
	}
	for i, r := range rs {
		inputs[i] = r
		sources = append(sources, r.sources...)
	}
	slices.SortFunc(sources, func(a, b Source) int { return slices.Compare(a[:], b[:]) })
	err = guard(func() error {
		out, err = writeRun(ctx, dir, inputs, slices.Compact(sources))
		return err
	})
	return out, err
}

// discard unmaps runs that nothing uses any more, and removes their files.
func (rs runs) discard() error {
	errs := []error{rs.close()}
	for _, r := range rs {
		if r.path == "" {
			continue
		}
		if err := os.Remove(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (rs runs) close() error {
	var errs []error
	for _, r := range rs {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}
