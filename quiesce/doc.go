// Package quiesce makes a guest hold still for the moment of a snapshot.
//
// Do walks down a ladder of consistency levels. On each rung it asks the writers
// that the level needs to Prepare, freezes them tier by tier, calls take, and
// thaws them in reverse:
//
//	for level in policy.Ladder, while level >= policy.Floor:
//	    prepare writers of that level         (minutes, outside the window)
//	    window opens
//	    freeze front-end, back-end, system    (hard budget over all)
//	    take()                                (one hypervisor command)
//	    thaw system, back-end, front-end      (always, whatever failed)
//	    window closes
//	    a freeze that failed, or was no longer held: abort, next rung
//
// take is called once at most for a level that is then reported; where a thaw
// says that the freeze had not held, the snapshot that was taken is kept but
// reported at the level that is still true of it.
//
// Invariants:
//
//   - On return the guest is proven thawed, or the error wraps ErrStillFrozen.
//   - Every writer whose Freeze was called gets Thaw or Abort, in reverse order.
//   - Complete and Abort never both happen.
//   - No level is reported that was not achieved; the report says why not more.
package quiesce
