// Package vmstate lays out the stream that QEMU writes of a VM, its memory and its
// devices, so that two streams of one VM have their memory at the same places.
//
// In the stream every page of the guest comes after a head of 8 bytes or more, so no
// page of it is ever where it was, and none at a multiple of its size. What Pack
// writes instead has three parts:
//
//	offset 0   header: where the rest is; length and SHA-256 of the stream
//	4 MiB      the guest's RAM, one block after the other, each from a multiple of
//	           4 MiB: a page is where the guest has it, and pages of zeros are holes
//	after it   the rest: how the stream is put together again
//
// The rest is a row of records: bytes of the stream that are no page, and runs of
// pages, by where they are here and where the guest has them. Unpack follows them and
// writes the stream byte for byte, or says that it cannot.
//
// Of the stream only what is needed for that is understood: its head, and the section
// "ram", which comes first. From the first byte on that is not as expected (another
// architecture's head, compressed pages, a version to come), and always after the
// RAM, the rest takes the stream as it is: a stream that is not QEMU's at all makes a
// layout without RAM.
//
// The stream comes from a process that a guest may have taken over, a layout from
// wherever restore points come from. Neither makes this package allocate more than a
// few MiB, and a bit for each page of the limit that the caller sets.
//
// The layout is part of the repository's format: docs/format.md says it byte by byte.
package vmstate
