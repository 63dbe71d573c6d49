// Package snapshottest is the conformance kit of package snapshot, and a host in
// memory that passes it.
//
// Run takes any snapshot.Host through its contract. The implementation brings a
// Fixture: a VM with known hands on the guest's side (write as the guest does,
// see what the guest sees) that do not go through the host under test. The kit
// keeps a model of every disk beside it and compares byte by byte:
//
//   - Plan changes nothing, names every disk, and survives JSON.
//   - Take freezes all disks at one instant while the guest goes on writing.
//   - Frozen bytes do not move; the guest's bytes all survive the Merge.
//   - Merge is right after any partial run, twice, and from a fresh host.
//   - Nothing is left behind: files and chain are as before.
//
// RunSaver does the like for a snapshot.Saver: memory and disks of one instant, and a
// VM that runs, whatever happens.
//
// RunCheckpointer and RunCheckpointerCutOff take a snapshot.Checkpointer through its own, on
// a Lifeline: a VM, what its disks hold, and what every checkpoint of it has to hold as long
// as it is there. Beside the rows that name what is promised there is a walk: whatever comes
// to mind, the same each time, held against that model and against what the tree has to be.
//
// Every plan travels through JSON before it is used, as it does in the journal.
//
// Fake is for tests of what stands above a host: it needs no hypervisor, its
// faults are programmable per call, and its guest can be made to hang, refuse or
// answer late. It passes the kit itself, so what is tested with it holds.
package snapshottest
