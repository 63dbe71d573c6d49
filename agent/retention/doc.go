// Package retention decides which restore points of one VM stay, after the
// grandfather, father and son of tape rotation. It is pure.
//
// Each rule keeps the newest point of each of its latest periods that hold a
// point:
//
//	last N       the N newest points
//	daily N      the newest of each of the N latest days with a point
//	weekly N     the same of ISO 8601 weeks, which begin on Monday
//	monthly N    the same of months
//	yearly N     the same of years
//
// Days without a point do not count, so a host that was off for a month does not
// lose its dailies. Rules do not exclude each other: a point stays when any rule
// wants it, and the decision names each that does. Periods are those of the
// calendar in the location that the caller gives.
//
// Invariants:
//
//   - The newest point always stays.
//   - With no rule at all, everything stays.
//   - A rule with a larger number keeps a superset.
//   - Deciding again about the points that stayed keeps them all.
//   - No rule lets a point go before the time that Until has said of it.
package retention
