// Package quiesce makes a guest hold still for the moment of a snapshot.
//
// Do walks down a ladder of consistency levels. On each rung it asks the writers
// that the level needs to Prepare, freezes them tier by tier, calls Take, and
// thaws them in reverse:
//
//	for level in policy.Ladder, while level >= policy.Floor:
//	    prepare writers of that level         (minutes, outside the window)
//	    window opens
//	    freeze front-end, back-end, system    (4/5 of the budget, with Take)
//	    take                                  (one hypervisor command)
//	    thaw system, back-end, front-end      (always, whatever failed)
//	    window closes
//	    settle: abort what failed, until it is proven to run
//	    a freeze that failed: next rung
//	    a freeze that no longer held, or a window that overran: keep what was
//	    taken, at the level that is still true of it
//
// What a rung needs:
//
//	application   every application writer that finds its application (one at
//	              least), and every file-system writer that is there
//	filesystem    every file-system writer (one at least)
//	saved-state   no writer, but a host that saves the guest's memory with its
//	              disks; the guest stands still meanwhile, and the window counts
//	crash         nothing
//
// An attempt of a writer starts with Prepare and ends with Complete or Abort. A
// rung that fails ends the attempts of its writers with Abort; the next rung
// starts new ones.
//
// Writers are told of the VM's disks, those that will be left out among them, and name the
// components that they speak for. The report has an outcome for each component of each
// writer that was asked to take part; those that did hear their own by Complete.
//
// Writers may tell how far a long call is (Teller); the job hears it (Job.Progress), and a
// call that runs out of time is reported with the last of it. It is a word to show, bounded,
// that no writer is kept waiting for and nothing is decided by.
//
// A rung whose failure may pass is tried again (Retry): writers that could not say who they
// are, too, are asked anew.
//
// Every call of a writer runs on a goroutine of its own and is given up when its
// time is over, whatever the writer does. A call that was given up is followed:
// Abort is called again and again until it succeeds with no earlier call left
// running, and the guest is thawed through the Thawer, past all writers, until it
// says itself that nothing is frozen. All of this runs on contexts that outlive
// the caller's.
//
// Guards thaw the guest where this process cannot: on each rung they are armed before
// the first Freeze, and a rung whose guards do not arm is out of reach. The rung that saves
// the guest's memory has guards of its own (Saved.Guards). The DeadMan is a child
// process that acts when this one dies; the Timer is a shell in the guest that acts
// when nobody has for a while.
//
// Invariants:
//
//   - On return the guest is proven thawed, or the error wraps ErrStillFrozen.
//     An application writer proves it by Thaw or Abort returning nil; the file
//     systems prove it by the Thawer's word where there is one.
//   - Every writer whose Freeze was called gets Thaw or Abort, in reverse order.
//   - In one attempt, Complete and Abort never both happen.
//   - Take is not called again once it was called: a Take that fails ends the run.
//     The same goes for that of Saved, but where it froze the disks and could not
//     save the memory, they are what the crash rung would have taken.
//   - The window of Saved ends when the guest goes on, which may be before it returns.
//   - No level is reported that was not achieved; the report says why not more.
//
// The clock is the time package's; tests run under testing/synctest.
package quiesce
