// Package agent runs backups and restores, recovers what a crash left behind,
// and drives the schedules of a host.
//
// One backup:
//
//	lock the VM, recover what an earlier run left
//	plan  := host.Plan()
//	         journal.Write(plan)          fsync
//	         host.Prepare(plan)
//	         quiesce.Do( host.Take )      freeze ... thaw
//	         transport.Backup(frozen)     read, cut, store
//	         frozen.Close(); host.Merge(plan)
//	         session.Commit(point)        the one write that makes it a point
//	         writers.Complete
//	         journal.Remove
//
// Whatever fails, the merge is tried with a context of its own, and the journal
// entry stays until it has succeeded.
package agent
