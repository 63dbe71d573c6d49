// Package blobtest is the conformance kit of blob.Store: everything that the
// contract says, as a test that each implementation runs.
//
//	func TestStore(t *testing.T) {
//		blobtest.Run(t, func(t *testing.T) blob.Store { return mem.New() })
//	}
package blobtest
