// Package filesystem is the writer of a guest's file systems: it has the guest
// agent freeze all of them, or those chosen (FIFREEZE; VSS on Windows guests), and thaw
// them again.
//
// It belongs to the system tier: it freezes last and thaws first, since while file
// systems are frozen a guest agent answers hardly anything else.
//
//   - A freeze that reports no file system is a failure: nothing holds still. So is one
//     that reports fewer than were chosen: what is no mount point is not frozen.
//   - Hooks of the guest that failed are said in the report. They are the guest's own
//     means, so the level of the file systems stays.
//   - The freeze had held when the thaw reports at least as many file systems as
//     the freeze did. Fewer means that something in the guest thawed some before.
//   - Abort thaws until the guest says itself that nothing is frozen.
//
// lull runs it as a plugin: Serve is the main function of that process.
package filesystem
