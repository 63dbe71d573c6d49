// Package tree is the map of a stream: the Merkle tree from its windows to their
// blocks.
//
// A leaf lists the blocks of one window. A node has Fanout children, each a node
// one level down or a leaf; a part of the stream that is all zeros has no node and
// is known by the zero name. The depth follows from the size, so that equal
// streams have equal trees. Nodes and leaves are blocks of their own kind and are
// named like them; equal subtrees are one, whoever wrote them.
//
// A Builder makes the tree of a new stream from what is told of its windows, in
// any order, each window once:
//
//	Set(window, leaf)     it was read
//	Zero(first, count)    it is known to be zeros
//	Keep(first, count)    it is as in the parent's tree
//	Finish                every window was told of; the root's name
//
// Ranges cost what their edges cost: a whole subtree that is zero or kept is one
// mark, and is not read. A node is encoded, saved and let go as soon as its last
// window is told of, so that memory follows the number of started nodes, not the
// stream: in roughly ascending order, a few a level.
//
// Decoding trusts nothing: levels, counts, order and lengths are checked against
// the place where the node is met. A stream of MaxSize has four levels.
package tree
