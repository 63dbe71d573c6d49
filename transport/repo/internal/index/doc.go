// Package index finds blocks: it maps the name of a block to its place in a pack.
//
// The truth about a repository's blocks is in the index objects of its store.
// This package is the look-up structure over them on the local disk: a cache that
// may be lost, damaged or deleted at any time and is then filled again.
//
//	x := index.Open(dir)
//	missing := x.Reconcile(ids of all index objects in the store)
//	for each id in missing:
//	    x.Add(id, its entries)
//	s := x.Session()
//	    s.Lookup(name)             // own entries, then everyone's
//	    s.Insert(name, location)   // once the block's pack is in the store
//	    write an index object that holds what was inserted
//	    s.Commit(id of that object)
//	s.Close()
//
// Entries live in runs: immutable files, sorted by name, mapped read-only.
// Names are keyed hashes and so uniform: a table of where each prefix starts
// leads to a bucket of 16 to 32 entries, and a look-up touches two pages of a run,
// however large. Runs of like size are merged, four at a time, so that n entries
// lie in O(log n) runs. An entry costs 52 bytes of file and no memory of the
// process; new entries gather in a table of bounded size first.
//
// A block may be known in several packs: all places are kept, so that when a pack is
// found damaged (Doubt) the block is found where it was stored again.
//
// Invariants:
//
//   - A run in the cache folder names its sources: the index objects whose
//     entries it holds, all of them and no others. A session's entries have no
//     source before Commit; their runs have no name in the folder, and end with
//     the process.
//   - A run's file is complete, checked and synced before it gets its name, and
//     is never written again. So processes that share a folder need no lock to
//     read: a file that another one merged away stays mapped until it is let go.
//   - Nothing here is needed to be right: losing a run costs reading its index
//     objects again. A damaged file is removed and its sources are missing.
package index
