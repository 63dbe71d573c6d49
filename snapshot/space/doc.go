// Package space keeps account of the room that deltas take, on the file systems where
// other VMs live too: QEMU stops every VM whose write finds a file system full.
//
// Two lines are drawn on each file system, of what stays free (Limits.Free), and two
// on each delta, of what it grows to (Limits.Delta). Beyond the soft one the guard
// warns and no further run begins there; beyond the hard one a run ends, and its deltas
// are merged at once. Merging needs room too, where an image has holes that its delta
// fills: the delta can be removed only afterwards. So that room is kept above the line.
//
//	free                         what a run looks at
//	|<------------------------- total ------------------------->|
//	|  used           | free                                     |
//	                  |  others' shares  | its own | soft | hard |
//
// A Ledger knows the runs of one process, and what each expects to take of which file
// system; their sum is held against what is free. One that does not fit beside the
// others waits for them, one that does not fit alone is refused. Runs of other
// processes are seen by what they have taken already.
//
// Where a file system runs short all the same, the run with the largest delta there
// ends first, and the others once half of what was to stay free is gone too.
package space
