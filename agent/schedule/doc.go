// Package schedule tells when a group runs. It is pure: the time, the zone and
// the name come from the caller.
//
// A schedule is five cron fields, a descriptor such as @daily, or @every with a
// duration, each with an optional CRON_TZ=ZONE in front. robfig/cron reads the
// fields and searches the calendar; what it lets through or panics on (a zone
// without fields, @every 0s, 30 February, empty lists, steps past the field's
// end) is refused here before it sees it.
//
// # When clocks change
//
// Fields that name hours ("30 2 * * *") mean the clock on the wall, each time of
// day once:
//
//   - a time that the spring gap skips runs at the first instant after the gap;
//     several of them run there once;
//   - a time that autumn shows twice runs at its first occurrence only.
//
// A schedule that runs in every hour ("*/15 * * * *", @hourly) follows elapsed
// time: it runs in the repeated hour too, and has nothing to make up for after a
// gap. @every D runs at whole multiples of D since 1970-01-01 00:00 UTC, so a
// restart does not shift it, and no clock change touches it.
//
// The search runs over a calendar without zones (UTC used as a wall clock), and
// what it finds is laid onto the real time line: for a wall time n, go through
// the zone's segments [start, end) of constant offset in order;
//
//	real := n - offset
//	real < start: n fell into the gap before the segment   -> start
//	real < end:   the first segment that shows n           -> real
//
// Invariants: Next is strictly after its argument, and monotone in it.
package schedule
