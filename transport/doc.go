// Package transport is the pipeline between a frozen disk and a repository, both
// ways.
//
//	Backup:   source extents -> windows -> [ read | cut, name, look up, seal ] x workers -> stream
//	Restore:  stream -> [ fetch, open, verify ] x workers -> target
//
// A worker owns one window's buffer and carries the window all the way: it reads
// it from the source and puts it into the session, which compresses and seals on
// the same goroutine. So memory is workers times a window, whatever the size of
// the disk, and there is one more worker than processors, to read while the
// others compute. Holes are never read.
package transport
