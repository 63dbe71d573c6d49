// Package journal keeps what must survive the agent: the run under way of each
// VM, which process works on the VM, and how its last run ended.
//
//	state_dir/
//	  runs/lab%2Fweb.json      the run under way; its plan undoes everything
//	  results/lab%2Fweb.json   how the last runs ended
//	  locks/lab%2Fweb.lock     held with flock while a process works on the VM
//
// A file is one line of kind, version and SHA-256 of the rest, then JSON. It is
// replaced whole:
//
//	create NAME.tmp; write; fsync; rename to NAME; fsync of the folder
//
// The caller of Write, Remove and Record holds the VM's Lock, so the
// temporary name is the VM's own, and what a crash left under it is overwritten
// by the next run.
//
// Invariants:
//
//   - What Write returned nil for is read back after any crash, until Remove.
//   - After a crash inside Write, Read finds the old entry or the new one, whole.
//   - A damaged or foreign file is an error that names it, never no entry: a run
//     that is forgotten leaves a delta that nobody merges.
//   - Lock files are never removed: the next holder might lock a file that is no
//     longer there.
package journal
