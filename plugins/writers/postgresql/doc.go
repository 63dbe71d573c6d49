// Package postgresql is the writer of PostgreSQL, 15 and newer.
//
// It finds the servers that run in the guest by their processes, and each one's data
// directory, port and socket by its postmaster.pid.
//
//	Prepare   are all files on disks of the VM? CHECKPOINT, so that recovery is short
//	Freeze    what was acknowledged is made durable; the processes are stopped
//	Thaw      they go on
//
// PostgreSQL has no command that holds all writes, so the writer does to its processes
// what a live migration does to the whole guest: it stops them (SIGSTOP), the postmaster
// first, for the length of the window. From then on nothing is added to the WAL,
// and recovery of the restore point has nothing to replay past the freeze.
//
// All disks of a VM are frozen in one instant, so what a restore point holds is what a
// power cut would have left, and PostgreSQL's recovery, which is made for that, brings it up.
// A backup label (pg_backup_start) is for copies whose parts are of different
// moments; here it would force a restore to replay from the label's checkpoint and
// a backup that dies would leave nothing better. See docs/writers.md.
//
// A stopped server must never stay so. The process in the guest that stopped it and one
// that watches it let it go on when either ends, by kill -9 or by the guest's
// service manager; so do a time limit, Thaw, and any Abort.
//
// lull runs it as a plugin: Serve is the main function of that process.
package postgresql
