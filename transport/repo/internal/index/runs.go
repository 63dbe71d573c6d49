package index

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/lull-backup/lull/transport/block"
)

// fanIn runs of like size are merged into one.
const fanIn = 4

// runs is a set of runs, the largest first: that is where a look-up most likely
// hits. It has no lock of its own.
type runs []*run

// hit is the outcome of a look-up: the first place in a good pack or, without one,
// the first.
type hit struct {
	hidden   *hidden              // nil: nothing
	usable   func(*Location) bool // nil: everything
	filtered bool                 // the runs' filters are believed
	only     bool                 // whether is asked, not where

	loc   Location
	found bool
	good  bool // found in a pack that is neither doubted nor unusable
}

// at notes a place, unless a better one is known.
func (h *hit) at(r *run, p place) error {
	if h.only && h.usable == nil && h.hidden.empty() {
		h.found, h.good = true, true
		return nil
	}
	loc, err := r.locate(p)
	if err != nil {
		return err
	}
	if h.hidden.isGone(&loc.Pack) {
		return nil
	}
	good := !h.hidden.isDoubted(&loc.Pack) && (h.usable == nil || h.usable(&loc))
	if !h.found || good {
		h.loc, h.found, h.good = loc, true, good
	}
	return nil
}

// hidden is the packs whose entries do not count.
type hidden struct {
	doubted map[[32]byte]struct{} // damaged or to be deleted: used only in need
	gone    map[[32]byte]struct{} // no index object lists them any more
}

func (h *hidden) empty() bool { return h == nil || len(h.doubted) == 0 && len(h.gone) == 0 }

func (h *hidden) isGone(pack *[32]byte) bool {
	if h == nil || len(h.gone) == 0 {
		return false
	}
	_, is := h.gone[*pack]
	return is
}

func (h *hidden) isDoubted(pack *[32]byte) bool {
	if h == nil || len(h.doubted) == 0 {
		return false
	}
	_, is := h.doubted[*pack]
	return is
}

// lookup completes h.
func (rs runs) lookup(name *block.Name, h *hit) error {
	if len(rs) == 0 {
		return nil
	}
	err := guard(func() error {
		for _, r := range rs {
			if h.filtered && !r.mayHold(name) {
				continue
			}
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

func (rs runs) inputs() (in []input) {
	for _, r := range rs {
		in = append(in, r)
	}
	return in
}

// tier puts runs of like size together: each is four times the one before it.
func (r *run) tier() int { return bits.Len64(r.count/1024) / 2 }

// due is the runs to merge next: the fullest tier from below that has so many of
// them, and everything smaller. None when all is well.
func (rs runs) due(fanIn int) runs {
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

// discard unmaps runs that nothing uses any more, and removes their files.
func (rs runs) discard() error {
	errs := []error{rs.close()}
	for _, r := range rs {
		if r.path == "" {
			continue
		}
		errs = append(errs, remove(r.path))
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
