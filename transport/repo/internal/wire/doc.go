// Package wire holds what all binary objects of a repository have in common: the
// eight bytes that they start with, and how their fields are read without
// believing any of them.
//
//	"lull"   4 bytes
//	kind     1 byte: what the object is
//	version  1 byte: of the format, the same in all objects of a repository; a greater one than is known is ErrNewer
//	flags    u16, little-endian: features that a reader must know; an unknown one is ErrNewer
//
// The eight bytes are part of what is authenticated, wherever something is sealed.
package wire
