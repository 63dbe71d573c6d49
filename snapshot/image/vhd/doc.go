// Package vhd reads and extends disk images in the VHD format of Virtual PC and
// Hyper-V: fixed, dynamic and differencing (.vhd, .avhd).
//
//	fixed:    data | footer
//	dynamic:  footer | header | block table | blocks ... | footer
//	block:    bitmap of its sectors, padded to a sector | data
//
// Every number is big-endian, every place a number of sectors. The footer at the
// end counts; the one at the beginning serves where that is damaged.
//
// What is read of a block:
//
//   - In a differencing image a sector whose bit is clear is the parent's.
//   - In a dynamic image the bitmap is not looked at, as in QEMU: a sector that was
//     never written is zero there, and not every program keeps the bits.
//
// The size is the footer's current size, as in Hyper-V, and not what its geometry
// comes to. An image knows its parent by the identifier in the parent's footer,
// which does not change when the parent is written to. So it keeps the time of the
// parent's last change besides; that time is lost by many a way to copy files.
//
// The format: "Virtual Hard Disk Image Format Specification", Microsoft, 2006.
package vhd
