// Package index finds blocks: it maps the name of a block to its place in a pack.
//
// The truth about a repository's blocks is in the index objects of its store.
// This package is the look-up structure over them on the local disk: a cache that
// may be lost, damaged or deleted at any time and is then filled again.
//
//	x := index.Open(dir)
//	missing := x.Reconcile(ids of all index objects in the store)
//	l := x.Loader()
//	for each id in missing:
//	    l.Add(id, its entries)
//	l.Flush()
//	s := x.Session()
//	    s.Known(names, known)      // own entries, then everyone's
//	    s.Insert(name, location)   // once the block's pack is in the store
//	    write an index object that holds what was inserted
//	    s.Commit(id of that object)
//	s.Close()
//
// # Runs
//
// Entries live in runs: immutable files of pages, sorted by name, mapped
// read-only (format.go). Names are keyed hashes and so uniform: a name's first
// bytes tell its page but for a few, so that a look-up reads one page of entries
// of a run, however large. A filter of 12 bits an entry answers for most blocks
// that are not there. Runs of like size are merged, four at a time, so that n
// entries lie in O(log n) runs. An entry costs 40 bytes of file: its name but for
// what a page's names share, and 8 bytes of place; packs, segments and signers are
// rows of tables, and numbers elsewhere. The process keeps 4 bytes a page, 4 MB
// for 100 million entries; new entries gather in a table of bounded size.
//
// # What is believed
//
// Open looks at headers and fences only. Every other page has a checksum that is
// compared whenever the page is read, so that a bit that rots in the cache is an
// error and not a wrong place. The run is dropped then, and Missing names its
// sources; who looks up adds them and asks again. The filter alone goes unchecked:
// only sessions believe it, and a lost bit makes them store a block twice.
//
// A block may be known in several packs: all places are kept, so that when a pack
// is found damaged (Doubt) the block is found where it was stored again. A session
// can be told which packs, and whose, it may build on (Only).
//
// # Index objects come and go
//
// A run lists which of its sources lists which pack. When maintenance replaces
// index objects, packs count as long as any object in the store lists them; the
// entries of others are hidden at once and left out by the next merge. Nothing but
// the new objects is read.
//
// Invariants:
//
//   - An index object lists whole packs, and a run that names a source has all
//     entries that the source lists. A session's entries have no source before
//     Commit; their runs have no name in the folder, and end with the process.
//   - A run's file is complete and synced before it gets its name, and is never
//     written again. So processes that share a folder need no lock to read: a file
//     that another one merged away stays mapped until it is let go.
//   - Nothing here is needed to be right: losing a run costs reading its index
//     objects again.
package index
