package space

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// Amount is a number of bytes, or so many hundredths of a whole. The zero Amount is
// not given.
type Amount struct {
	Bytes   int64
	Percent int // 1 to 100; 0: Bytes counts
}

// IsZero: nothing was given.
func (a Amount) IsZero() bool { return a == Amount{} }

// Of is the amount in bytes, for a whole of so many.
func (a Amount) Of(whole int64) int64 {
	if a.Percent == 0 {
		return a.Bytes
	}
	return whole/100*int64(a.Percent) + whole%100*int64(a.Percent)/100
}

func (a Amount) String() string {
	if a.Percent > 0 {
		return strconv.Itoa(a.Percent) + "%"
	}
	return humanize.IBytes(uint64(max(a.Bytes, 0)))
}

// maxAmount bounds an amount, in bytes: no file is larger.
const maxAmount = 1 << 60

var errAmount = errors.New("an amount is a number of bytes with its unit, such as 20GiB, or 1% to 100%")

// ParseAmount reads 20GiB, 500 MB, or 5%.
func ParseAmount(s string) (Amount, error) {
	if share, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.Atoi(strings.TrimSpace(share))
		if err != nil || n < 1 || n > 100 {
			return Amount{}, errAmount
		}
		return Amount{Percent: n}, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n == 0 || n > maxAmount || strings.Trim(s, "0123456789.") == "" {
		return Amount{}, errAmount
	}
	return Amount{Bytes: int64(n)}, nil
}

// Pair is where a warning is due, and where the run ends.
type Pair struct{ Soft, Hard Amount }

// Limits are the lines that deltas must not cross. The zero value is good.
type Limits struct {
	// Free is what stays free on the file systems of the deltas, of their size. By
	// default the hard line is the larger of 1 GiB and 2 %, but no more than a quarter,
	// and the soft one twice the hard one.
	Free Pair
	// Delta is what the delta of a disk may grow to, of the disk's size. By default
	// nothing but the room bounds it.
	Delta Pair
	// Unguarded: deltas may take all there is.
	Unguarded bool
}

// LeaveFree are limits by which so many bytes stay free; fewer than none: unguarded,
// none: the usual.
func LeaveFree(bytes int64) Limits {
	switch {
	case bytes < 0:
		return Limits{Unguarded: true}
	case bytes == 0:
		return Limits{}
	}
	return Limits{Free: Pair{Hard: Amount{Bytes: bytes}}}
}

// What deltas leave free by default: the larger of the first two, but never more
// than a quarter of a small file system.
const (
	leastFree  = 1 << 30
	freePart   = 50 // 2 %
	freeAtMost = 4  // a quarter
)

// lines are what stays free of so many bytes, before the warning and before the end.
func (l Limits) lines(total int64) (soft, hard int64) {
	if l.Unguarded {
		return 0, 0
	}
	hard = min(max(leastFree, total/freePart), total/freeAtMost)
	if !l.Free.Hard.IsZero() {
		hard = l.Free.Hard.Of(total)
	}
	if l.Free.Soft.IsZero() {
		return 2 * hard, hard
	}
	return max(l.Free.Soft.Of(total), hard), hard
}

// Sizes are what the delta of a disk of that size may grow to, before the warning and
// before the end; 0: no bound.
func (l Limits) Sizes(disk int64) (soft, hard int64) {
	return l.Delta.Soft.Of(disk), l.Delta.Hard.Of(disk)
}

// Check says what makes no sense in limits.
func (l Limits) Check() error {
	comparable := func(p Pair) bool {
		return !p.Soft.IsZero() && !p.Hard.IsZero() && (p.Soft.Percent > 0) == (p.Hard.Percent > 0)
	}
	number := func(a Amount) int64 { return max(a.Bytes, int64(a.Percent)) }
	if f := l.Free; comparable(f) && number(f.Soft) < number(f.Hard) {
		return fmt.Errorf("the warning would come after the end: soft is %s free, hard is %s", f.Soft, f.Hard)
	}
	if d := l.Delta; comparable(d) && number(d.Soft) > number(d.Hard) {
		return fmt.Errorf("the warning would come after the end: soft is a delta of %s, hard is %s", d.Soft, d.Hard)
	}
	return nil
}
