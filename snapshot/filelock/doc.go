// Package filelock keeps all but one out, among processes and goroutines, by a lock of the
// kernel's on a file. It ends with Unlock, or with the process, whatever ends that.
//
// The file stays when the lock has ended: a lock on a file that was removed keeps nobody out.
// It says who has signed it last, for others to show.
package filelock
