// Package block cuts windows of a disk into blocks and names them.
//
// A disk is a row of windows of WindowSize bytes at fixed offsets; the last one
// may be short. A window is cut where its content says, but only between pages:
//
//	for each page of the window:
//	    all zeros?              the block before it ends; the page is in no block
//	    add it to the block
//	    block is MaxBlock long? it ends
//	    keyed(crc32c(page))     below the threshold? it ends
//
// So equal runs of pages make equal blocks wherever they lie, a change re-cuts a
// few pages around it and never another window, and zero pages, which need no
// storing, are the gaps between blocks.
//
// The cut is keyed (see Cutter), and so are the names (see Namer): neither cut
// points nor names say anything to who has not the repository's keys.
//
// Everything here is pure: no I/O, no goroutines, safe for concurrent use.
package block
