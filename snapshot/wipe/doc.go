// Package wipe removes files so that what was in them does not stay on the disk below:
// deltas of guests, saved memory, restores that were given up. On storage that tenants
// share, the next one to get a block may see what the last one left in it.
//
// A file is overwritten with zeros from its end to its start, a step at a time; each
// step is made durable, and then the file is cut off before it. So a wipe that is
// interrupted has destroyed what it says, frees room as it goes, and goes on where it
// was when it is called again.
//
// What that is worth depends on what lies below:
//
//	ext4, XFS          the very blocks are overwritten; but on XFS not those of a range that
//	                   was zeroed by ZERO_RANGE meanwhile, which got others then
//	btrfs              only those of a file that Plain was called on when it was empty
//	reflinks, snapshots of a file or its volume
//	                   the other copies stay
//	ZFS, bcachefs, log-structured and network file systems
//	                   new blocks are written, the old ones stay until they are reused
//	SSDs, thin volumes the same, below the file system: only the device can erase them
//
// Doubt says so of a folder where the file system shows it.
//
// Zeros are written, and not asked for: fallocate(2) with ZERO_RANGE or PUNCH_HOLE only
// notes that a range reads as zeros, and what was there stays on the device.
package wipe
