// Package pack is the form of packs, the objects that hold blocks, and of the
// index objects that list what packs hold.
//
//	header      prefix, and the pack's key sealed to the public key
//	segments    each: compressed, sealed under the pack's key
//	directory   which blocks each segment holds, sealed under the index key
//	trailer     length of the sealed directory, the prefix again, the certificate of
//	            the key that made the pack, and its signature
//
// A pack is named by the BLAKE3 hash of its bytes up to the signature, so that anyone can
// tell whether it is whole. The signature is made over the name and what the directory
// says; index objects repeat it. So whoever looks a block up knows on whose word it is
// there, and an index object may be written again by others. Its directory is found from the end with one range read,
// and is all that an index needs; who may index a pack need not be able to read it.
//
// A Writer fills a pack in memory. Reserving a place in it is quick and in order;
// sealing into the places is done by many goroutines at once. What was sealed is
// opened again, unpacked and compared before the pack counts it as written, so that
// neither a broken processor nor a bug of the compressor goes unseen.
//
// Readers check every count and length against the bytes at hand, and the sizes
// of blocks and segments against MaxSegment, before they allocate.
package pack
