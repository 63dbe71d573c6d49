// Package qmp speaks with QEMU: its monitor (QMP) and the agent inside a guest
// (QGA). Both are JSON, one message a line, over a unix socket; everything else
// about them differs.
//
// A monitor greets, then takes commands with ids and answers them in any order,
// with events in between. It serves one client at a time: to a second one it does
// not even say hello. Client has one reader goroutine that hands answers to the
// callers who wait for them and events to subscribers:
//
//	line := read at most MaxLine bytes
//	greeting         -> first line only
//	{"id", "return"} -> the caller with that id; nobody waits any more: dropped
//	{"id", "error"}  -> the same, as *Error
//	{"event"}        -> every Subscription whose names match, or counted as lost
//
// An agent has no greeting, no ids and no events, it may be absent behind a
// socket that connects well, and an answer that comes after its caller gave up
// looks like the answer to the next command. So Agent puts guest-sync-delimited
// with a random id before every command, and throws away all that comes before
// the answer with that id:
//
//	send 0xFF {"guest-sync-delimited", id}
//	read until 0xFF, then a line; until its return == id
//	send the command; its answer is the next line
//
// What a guest says is hostile: each line, file and output has a limit.
//
// Invariants:
//
//   - Every call ends with its context at the latest. A command that was sent may
//     still be carried out.
//   - An answer is never taken for the answer to another command.
//   - After Close no goroutine of the package runs.
package qmp
