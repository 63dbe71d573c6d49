// Package quiescetest is the conformance kit of quiesce.Writer, with a scripted
// writer and a fake guest for the tests of other packages.
//
// RunWriter holds a real writer to its contract, under *testing.T or anything like
// it. Writer does what its script says, good or bad; Guest stands for a guest whose
// file systems can be frozen; Tape keeps what happened in order, so that a test can
// read it.
package quiescetest
