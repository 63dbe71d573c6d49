// Package merge writes a differencing image (AVHD, AVHDX) into the image that it was
// made on, for when the hypervisor that should do so is gone.
//
//	look:    both locked; the parent is the very one; nothing else was made on
//	         either of them; there is room
//	journal: PARENT.lull-merge, durable before the first write
//	begin:   the parent gets a new identity (VHDX), as its format asks
//	batch:   child's data -> parent: over what it replaces, or into new blocks that
//	         no table leads to; fsync; patches of the tables -> journal, durable;
//	         patches -> parent; fsync
//	compare: all that the child has is read back from the parent
//	end:     journal "merged", durable; with Discard the child is removed; then
//	         the journal
//
// Invariants:
//
//   - The child is never written to, and removed last: until then all that it has
//     is in it, and whatever was half done in the parent is done again from it.
//
//   - A table of the parent is written from the journal alone. What a crash tore is
//     written again, whole, before anything reads it.
//
//   - New blocks lie behind the file's old end. What a crash left there without a
//     table that leads to it is cut off.
//
//   - While the journal is there lull reads the parent for nothing else
//     (snapshot.ErrMergePending), and a hypervisor refuses a VHDX child upon it.
//
//   - A merge that was cut off goes on only where nobody wrote to the parent since: a
//     VHDX has another identity then. A VHD tells less: it must be the same boot of the same
//     host, as one that starts may start VMs, and the file not much younger than the journal;
//     who writes to it in the quarter of an hour after a merge was killed is not seen. The
//     child is removed only by a run that read all that it has back from the parent.
//
// So Run after a crash at any moment goes on where it was, by the journal, and comes
// to the same end.
package merge
