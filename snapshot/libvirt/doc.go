// Package libvirt is the host of the domains of a libvirt daemon on this machine, 7.2 or
// newer with its QEMU driver.
//
// A domain that runs is a QEMU process like any other, so package qemu does the work, over
// libvirt's passage to the monitor. What changes a chain, or whether the domain runs, goes
// through libvirt instead (qemu.Manager), so that its own view of the domain stays right:
//
//	Prepare  create <image>.lull-<run>.delta, qemu-img create
//	Take     QEMU: block-dirty-bitmap-add for every disk
//	         virDomainSnapshotCreateXML: disk-only, atomic, no-metadata, reuse-external
//	Open     the files
//	Merge    virDomainBlockCommit: active, shallow; wait until its mirror is ready
//	         stamp beside the delta: pivot                      the durable marker
//	         virDomainBlockJobAbort: pivot
//	         look at QEMU's chain, the live and the inactive XML; unlink
//
// libvirt makes every persistent bitmap of an image again in the delta, and merges it back
// with the commit; so do a user's checkpoints go through a run unharmed, and lull's records.
//
// The domain's XML says from which layer it starts next. Libvirt changes it with the
// snapshot and with the pivot, so a domain never runs from the image while a delta holds
// writes, whatever crashes. Where the domain went off meanwhile, Merge decides by it:
//
//	inactive XML  stamp            what Merge does
//	delta         any but pivot    qemu-img commit, put the image into the XML, unlink
//	delta         pivot            the same without the commit where both say the same,
//	                               else ErrUncertain: QEMU ended as it moved
//	image         pivot, merged    unlink: the pivot was seen
//	image         another          as package qemu does, from the stamp
//	a layer upon  any              ErrBusy: a user's snapshot needs the files (layers.go)
//	  either
//	others        any              as of one that is there no more: from the stamp alone
//
// A domain is its UUID, which the plan has, from the plan to the merge (served.go): a name can
// be another domain's by then. Of one that is there no more libvirt has no record: the
// stamp decides, and no other domain may name the delta.
//
// Compare holds both definitions against QEMU's chain, the files and the journal, as package
// qemu does; and the room for deltas, the progress of a merge and its slowdown are that
// package's, too, but that libvirt sets the limits of a disk, and notes them.
//
// The daemon works on a few calls of a connection at a time. So each domain that is served has
// a connection of its own, and each guest's agent (link.go): what one of them holds up
// holds up no other.
//
// The daemon may die and come back at any time: domains run on, and whoever needs it waits
// for a minute. A question is asked again then, an order is not: Merge looks what became
// of it.
//
// The guest's agent is asked through libvirt, as that holds its channel, and never without a
// limit of time: libvirt waits for ever by default, and lets nobody else at the agent.
//
// A domain that is off is its images (off.go): package image reads them, under QEMU's own locks
// from Prepare to Merge, so that a start meanwhile is refused.
//
// Checkpoints (checkpoint.go) are external snapshots that libvirt forgets at once: the tree is
// lull's, and what a domain runs from libvirt's.
//
// Beside the disks a restore point has the domain's definitions, as they are before the disks
// freeze, the firmware's variables and the state of an emulated TPM. Definer gives them back
// to a libvirt: to the same domain or to another, and never over one that is there unless it
// was told to. MemoryDefiner gives back a saved memory, too, as libvirt's own managed save.
package libvirt
