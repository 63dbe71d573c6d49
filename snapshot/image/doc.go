// Package image reads disk images as files, with backing chains: raw, qcow2, and
// what other hypervisors write, VHD, VHDX and VMDK (packages of these names). It
// writes raw and qcow2. It is also the host of VMs that are powered off, and of loose
// images (NewHost).
//
// Reading. OpenChain takes the layers that the caller names, top first, and
// follows nothing else. For loose images ResolveChain walks the headers, and
// only goes on where an image declares the format of its backing file: bytes
// that a guest could write never decide what is opened or how it is read.
//
//	read(layer, range):  raw    -> pread
//	                     qcow2  -> L1 -> L2 -> data: pread | zero | compressed: inflate
//	                                           | absent: read(layer below, range)
//	                     others: likewise, see their packages
//
// These three know their parents by identifiers, which are compared. Where
// the parent lies is the administrator's word, or beside the image: the paths that
// an image holds are those of another machine.
//
// Invariants:
//
//   - Images are hostile. Every offset is checked against the file before it is
//     read, memory is bounded by constants of this package and not by the
//     image, and what does not add up is snapshot.ErrCorrupt with the file and
//     the place. A file that is shorter than its tables say is an error; its
//     missing end never reads as zeros.
//   - L1 and L2 tables are read in pieces through one cache of bounded size.
//   - Reads use pread alone and share nothing but that cache, so many workers
//     read in parallel.
//   - An open image is locked the way QEMU locks it for reading (lock.go), and a
//     lock that somebody holds against us is snapshot.ErrBusy.
//   - A raw image is its disk to the byte, so that it comes back as long as it was.
//     A qcow2 disk whose size is no multiple of 512 is padded with zeros up to one,
//     as QEMU shows it to its guest.
//   - An image into which a merge was not finished (package merge) is refused, alone
//     and in a chain: snapshot.ErrMergePending.
//   - Internal snapshots of a qcow2 image are ignored; they are not backed up.
//
// Writing. A Target is a hidden temporary file beside its path, .NAME.lull-X.partial,
// until Commit has written its metadata, synced it, and renamed it into place. It is
// locked with flock(2) so long: one that is not was left by a killed process.
//
// The qcow2 format: https://gitlab.com/qemu-project/qemu/-/blob/v7.2.0/docs/interop/qcow2.txt
package image
