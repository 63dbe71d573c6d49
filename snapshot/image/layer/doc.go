// Package layer is what the readers of disk image formats have in common: a file
// that is read within bounds, what a layer of a chain tells of a range, and a
// cache of bounded size for its tables.
//
// Images are hostile. A reader goes through File.Read, which refuses what lies
// outside of the file, and reports what does not add up by File.Corrupt, with the
// file and the place.
package layer
