// Package durable keeps small files: each is there whole or not at all, whatever ends the
// process or the host, and is read back no longer than it may be.
//
// A file is written beside its place, synced, renamed to its place, and then the folder is
// synced. On return of Put and Rename all of that is done. When they fail, what was at the
// place is still there, but for an error of the last step: then the new one is, and only a
// loss of power may take it back.
//
// What is more than text is kept as a document, which tells itself what it is, and whether it
// is whole.
//
// Nothing here follows a link that stands at the name of a file to write: whoever may write
// to the folder cannot lead a process of root elsewhere.
package durable
