package schedule

import (
	"hash/fnv"
	"time"
)

// Jitter is a delay in [0, most) for the run of name that is due at t: the same
// for the whole day (by the clock of t's zone), another on the next, so that
// many hosts with one schedule do not all reach the store at once. Whole
// seconds.
func Jitter(name string, t time.Time, most time.Duration) time.Duration {
	n := uint64(most / time.Second)
	if most <= 0 || n == 0 {
		return 0
	}
	h := fnv.New128a()
	h.Write([]byte(t.Format(time.DateOnly)))
	h.Write([]byte{0})
	h.Write([]byte(name))
	sum := h.Sum(nil)
	var v uint64
	for i, b := range sum[:8] {
		v = v<<8 | uint64(b^sum[8+i])
	}
	return time.Duration(v%n) * time.Second
}
