// Package repo is the repository: restore points made of deduplicated, compressed
// and sealed blocks, on any blob.Store. docs/format.md has every byte of it.
//
// A backup:
//
//	r := Open(store)
//	s := r.Begin(vm, now)
//	    st := s.Stream(size, parent)         one for each disk and file
//	        st.Put | st.Zero | st.Keep       every window once, from many goroutines
//	        root := st.Finish()
//	    s.Commit(point)                      packs, index, then the manifest
//	s.Close()
//
// What Put does, on the caller's goroutine:
//
//	cut the window, name its blocks, make and name its leaf
//	the parent has this leaf at this place?   nothing else to do, unless there are doubts
//	each block: known to the index or claimed by this session?  nothing to do
//	            else claim it and add it to a segment
//	a segment is full:  compress, take a place in the pack, seal, verify
//	a pack is full:     directory, name, hand over to an uploader
//
// So the processors that compress are those of the callers, and what waits is
// bounded: a window and a segment a caller, three data packs, two of map nodes.
// A changed window's blocks are looked up in the local index rather than in the
// parent's leaf: that would cost a request, the index costs none.
//
// Order of writes, each durable before the next begins:
//
//	pack < index object that lists it < manifest of a point that needs it
//
// Nothing else is promised about order, and nothing is ever overwritten: a crash
// at any moment leaves at worst packs and index objects that no point needs. Blocks
// of a session become known to other sessions with its index object, not before.
//
// Damage: what a check or a read finds damaged is noted on this host (doubts), and is
// not known to sessions any more: the next backup stores what it meets of it again,
// and a restore reads each block from where it is whole. A session during which damage
// comes to light commits nothing.
//
// Keys and trust: the key that opens a repository has roles (Roles), and what it may not
// do fails with ErrRole. Packs, index objects, restore points and documents are signed
// by it, and carry its certificate. A session builds only on packs whose signer belongs to
// its Domain. Points name their parents and the newest points of the host's other VMs by
// hash, deletions are written down and signed (tombstones), and each host remembers what it
// saw: what the store leaves out is ErrOmitted, what it makes up ErrForged (checkChain).
//
// Many hosts and maintenance, without locks (sessions.go, marks.go, prune.go):
//
//	writer                          maintainer
//	create sessions/<s>             list points, index objects, packs; walk all maps
//	list marks                      create marks/<n>: packs that nothing needs
//	choose a parent that is there   list sessions -> marks/<n>.sessions
//	packs, index/<s>.<k>, point     ... later: those are over, or fenced
//	create sessions/<s>.end         walk all maps again; create marks/<n>.done
//	                                delete index objects, packs, the mark, ended sessions
//
// Either the writer sees the mark, and needs nothing of it, or the maintainer sees the
// session, and waits. Whoever is silent for too long finds a fence where its next index
// object or its point would go. Every name is created at most once, so two maintainers
// that race do so for one name. TestProtocol runs this code in every order.
//
// What the store keeps locked is no obstacle: a point that is locked is not forgotten, a pack
// that is locked stays known, and what proves to be locked after a decision is no part of
// the repository and is deleted later (locked.go).
//
// Everything that is read is authenticated, bounded before it is allocated, and
// blocks are compared with their names before they are handed out.
package repo
