// Package script is the writer of the administrator's own scripts: one that makes an
// application hold still, and one that lets it go on, in the guest or on this host.
//
// Each is run by a small shell program of this package, the same in both places, for
// what lull asks may be given up, arrive late, or outlive lull:
//
//	freeze:  mkdir begun-TURN; over-X with X >= TURN?  then nothing
//	         a process that thaws after a while; run the script; touch held
//	thaw:    mkdir over-TURN; every begun-X with X < TURN?
//	         rename it to ended-X; end its script; run the thaw script; remove ended-X
//
// Turns only grow. A freeze leaves its mark before it looks for the marks of thaws, and
// a thaw the other way round: so whichever comes first, no freeze stays that a later
// thaw does not know of. Nor does one that was slow to begin: its script leaves its
// number in begun-X, and looks whether that is still there, before it does anything.
//
//   - The thaw script runs on every path once the freeze script was begun: when that
//     failed, was given up, when this process, lull or the host is gone. It may run
//     twice, and runs again where it failed.
//   - A script has a time limit, after which its process group is killed. A freeze
//     script that does not end with 0 is a veto; with 75 it is worth another try.
//   - Words of a command are passed as they are; no shell reads them, nor anything
//     that a guest says.
//   - The beginning of what scripts print is in failures and in the document.
package script
