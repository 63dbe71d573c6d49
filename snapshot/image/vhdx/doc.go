// Package vhdx reads and extends disk images in the VHDX format of Hyper-V: fixed,
// dynamic and differencing (.vhdx, .avhdx).
//
//	0      file identifier
//	64 K   header, 128 K its twin: the valid one with the higher sequence counts
//	192 K  table of regions, 256 K its twin
//	1 M …  log, metadata, block table, blocks of data, blocks of sector bitmaps
//
// Every number is little-endian. Headers, region tables and log entries carry a
// CRC-32C, which is verified.
//
// The block table has an entry for each block and, after each chunk of blocks (2^23
// sectors), one for the bitmap that says which sectors of the chunk's partially
// present blocks are the image's own. A block that is not present is zero, or, in a
// differencing image, the parent's; one that is undefined or unmapped reads as zeros.
//
// Log. An image that was not closed well has a log. It is replayed in memory: the
// active sequence of entries becomes a list of patches upon the file, each a range
// that is zero or that lies, in pieces, in the log; every read of the image goes
// through it. The file is never written by a reader, and the patches take memory for
// their places only.
//
// An image knows its parent by the DataWriteGuid of the parent's header, which
// changes with the first write into the parent's disk.
//
// The format: [MS-VHDX], Virtual Hard Disk v2 (VHDX) File Format, Microsoft.
package vhdx
