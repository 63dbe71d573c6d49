// Package snapshot is the contract between lull and a hypervisor: how a host
// lists its virtual machines, freezes the disks of one of them, gives the frozen
// disks to a reader, and merges the temporary delta back.
//
// One snapshot, in the order in which a run calls it:
//
//	plan  := host.Plan(vm, run)     // reads only; names every side effect
//	         journal.Write(plan)    // fsync: from here on Merge can undo it all
//	         host.Prepare(plan)     // deltas created and opened, guest untouched
//	         host.Take(plan)        // one transaction, inside the freeze window
//	frozen:= host.Open(plan)        // read the frozen chain; the guest runs on
//	         frozen.Close()         // every reader and export is gone
//	         host.Merge(plan)       // deltas committed, removed; chain as before
//
// A Tracker also says what changed since the restore point before: Track names records of
// changes in the plan, Take begins them, the frozen disks say what those before hold, and
// Settle, after Merge, removes what nobody needs any more.
//
// Invariants every implementation keeps:
//
//   - Plan is plain data. Prepare, Take, Open and Merge work from it alone, in
//     this process or in one started later: crash recovery is Merge(plan), the
//     tail of the normal path.
//   - Merge is idempotent and right after any partial Prepare, Take or Merge.
//   - All disks of a VM freeze at one instant, or none does.
//   - Every disk of the VM is in the plan, or in its Excluded list with a reason.
//   - Nothing reads a node while it is merged.
//   - Formats and backing files come from the hypervisor's word or the
//     administrator's, never from probing bytes that a guest can write.
package snapshot
