// Package vmdk reads disk images in VMware's format: monolithic sparse and flat,
// split into extents, stream-optimized (compressed), and images made on a parent.
//
//	descriptor: text: identity, parent, extents
//	extents:    FLAT, VMFS   bytes of the disk in a file of their own
//	            SPARSE       header | directory -> tables -> grains, as they are or compressed
//	            ZERO
//
// A monolithic sparse image is one sparse extent that holds the descriptor. The files
// of other extents are looked for in the descriptor's folder only, by a bare name:
// Open's caller opens them, and locks them too. Where a stream-optimized image does
// not know its directory at the beginning, its footer does.
//
// A grain that is not there is the parent's, or zero where there is none. An image
// knows its parent by a content identifier (CID), which changes with the first write
// after the parent was opened.
//
// Not read: ESX's own sparse extents (VMFSSPARSE, SESPARSE) and raw device mappings.
//
// The format: "Virtual Disk Format 5.0", VMware, 2011.
package vmdk
