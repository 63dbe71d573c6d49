// Package blob is the contract with an object store. Everything that lull keeps
// is an immutable object, written whole, once, under a name that nothing else
// uses; a Store needs no rename, no append and no overwrite.
//
// Names are slash-separated paths of [0-9a-z._-] segments, at most 200 bytes,
// no segment starting with a dot. No name is a folder of another: where there is
// an object a/b there is none called a.
//
// Retry, counting and faults are decorators around a Store, never flags inside
// one. The usual stack, from the outside in:
//
//	retry → count → s3 or dir
//
// A Store may also be a Locker, which keeps objects from being deleted until a given
// time, and a Versioner, which still has what someone deleted or wrote over. Both
// are optional interfaces; Retain, RetentionOf, LockingOf, HiddenOf and Reveal ask any
// Store. Package lock is the decorator that locks what a repository creates.
//
// Every Store passes the conformance kit in blobtest, and a Locker the kit's second
// part.
package blob
