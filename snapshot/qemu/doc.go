// Package qemu is the host of VMs that run in plain QEMU processes, 7.2 or
// newer. All it needs of each is a monitor socket (QMP) and, for what happens in
// the guest, the socket of the guest agent.
//
// One run, disk by disk (QEMU-FACTS section 3):
//
//	Prepare  create <image>.lull-<run>.delta (O_EXCL, owner and mode of the image)
//	         blockdev-add file, blockdev-create qcow2, blockdev-add qcow2 backing:null
//	Take     transaction[block-dirty-bitmap-add, blockdev-snapshot, for every disk]
//	Open     the files; or nbd-server-start on a passed socket, block-export-add
//	Merge    block-export-del, nbd-server-stop
//	         block-commit delta -> image, wait for READY
//	         rename <delta> to <delta>.merged, fsync folder        the durable marker
//	         job-complete, look whether the image is on the device again
//	         blockdev-del, unlink
//	Settle   block-dirty-bitmap-remove of what the new point has replaced
//
// The variables of a UEFI firmware are a small file that Take reads right before and
// right after its transaction. Equal, they are those of the instant; else the point has
// them as they were soon after and a warning.
//
// The frozen layers are open read-only and flushed, so their files hold the same bytes as
// QEMU's nodes, and are read several times faster; meanwhile they are locked as QEMU locks
// them, so a commit that came too early would fail. Disks whose files lull cannot read
// come from QEMU's NBD server. Never those of a VM with I/O threads: where an export's node
// runs in an I/O thread, QEMU 7.2 with the fix of CVE-2024-7409 (Debian 12) fails an
// assertion, and the guest dies with it, as soon as a client disconnects
// (blockdev-nbd.c, nbd_blockdev_client_closed).
//
// Dirty bitmaps record what changes from one restore point to the next; track.go says how
// they are named, and when they are believed.
//
// Merge does not remember what was done. It looks at three things and decides:
//
//	QEMU             delta in QEMU   file            what it does
//	the same         on the device   any             commit, live
//	the same         open            <delta>         close, unlink
//	the same         no              .merged         unlink: the pivot was seen
//	any              no              untouched       unlink
//	another          on the device   any             commit, live
//	another          no              written to      ErrDiverged
//	gone             -               <delta>         qemu-img commit, unlink; see below
//	gone             -               .merged         unlink when it says the same as the image, else ErrUncertain
//
// "The same" is the same process: PID, start time and boot. "Untouched" is a
// qcow2 file whose L1 table is empty: the guest has never written to it.
//
// With QEMU gone the image must be as that QEMU left it. A stamp beside the delta
// (<delta>.stamp, see stamp.go) says what it was like when it was frozen and whether a
// commit has begun: an image that was written to by others is ErrDiverged, and one of
// which that cannot be told is ErrUncertain, unless the delta holds nothing that the
// image does not say too. Both name the commands for whoever knows more.
//
// TakeSaved saves the VM's memory too; the order is in save.go. The file of it is
// the marker of a VM that may be stopped, until it is resumed: where Merge finds it
// under that name in the same process, it ends the migration and resumes the VM before
// all else, as a VM after a migration has let go of its images. Where QEMU can, the guest goes
// on while its memory is written (background.go).
//
// While a run has deltas its VM cannot be migrated away (anchor.go). Compare says what
// Merge would meet (survey.go); slow.go is how a guest is slowed down that writes faster
// than it is merged; cipher.go tells of encrypted disks.
//
// A VM may have been started by a program that keeps a record of its disks, such as libvirt:
// then all that changes a chain goes through a Manager, and the record says more than QEMU
// does; see there, and package libvirt.
//
// Invariants:
//
//   - A delta that holds a write which the image may lack is never removed, and
//     never committed over an image that may have moved on.
//   - No file is touched while another process holds QEMU's lock on it.
//   - Every wait for an event asks the monitor too: events get lost.
//   - All names that a run makes in QEMU begin with "lull-" and follow from the
//     plan, so any process finds them again.
//   - While disks are read, deltas leave room on their file systems, as other VMs live
//     there: Prepare does not begin without it and Watch ends the run (package space, guard.go).
//   - A VM that QEMU stopped for want of space under the delta goes on after the
//     merge.
package qemu
