// Package record is the log that a test guest writes all the time, and the proof
// that a copy of it is whole.
//
// A log is one file on each of several disks. Record n is written and made
// durable on the first disk, then on the second, and so on; only then is it
// acknowledged and record n+1 begun. A record is RecordSize bytes: a header, a
// body that only its number decides (so that no two records compress or
// deduplicate into one), and a CRC-32C over both. The file is a ring of Capacity
// slots, record n in slot n-1 modulo the
// capacity, so that a log never fills a disk.
//
// What therefore holds at every instant, and so in every true snapshot:
//
//   - on each disk the numbers up to the last have no gap;
//   - no record but the one being written is torn;
//   - no disk is behind the disk before it by more than that one record;
//   - the last number is at least the last acknowledged one.
//
// Verify checks all of it on what it finds.
package record
