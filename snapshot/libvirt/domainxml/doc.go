// Package domainxml reads the definitions of libvirt's domains, and changes them.
//
// A definition is kept as the tree that it is, so that what lull knows nothing of goes
// through a restore unharmed; only comments and the space between elements are lost.
//
// Invariants:
//
//   - A definition may come out of a restore point: its size, its depth and its number of
//     elements are bounded, and what it says is no path before somebody looks.
//   - What is written is XML again, whatever the strings hold that were set.
package domainxml
