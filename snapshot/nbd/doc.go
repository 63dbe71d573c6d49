// Package nbd reads a disk from an NBD server, such as the one inside QEMU.
//
// A Client is a snapshot.Source over one export: newstyle-fixed negotiation,
// structured replies and meta contexts. Many goroutines share a connection;
// each call has a cookie by which its reply is found, so requests are pipelined
// and answers may come in any order.
//
//	caller:  slot -> pending[cookie] -> send queue -> wait for done or ctx
//	writer:  send queue -> socket
//	reader:  socket -> pending[cookie] -> into the caller's buffer -> done
//
// Invariants:
//
//   - The server is not trusted. Every length, offset and count is checked
//     against what was asked before memory is spent on it. An answer that
//     overlaps itself, exceeds the request or leaves a part of it out ends the
//     connection with ErrProtocol.
//   - Only the reader writes into a caller's buffer, and only while the call is
//     claimed. A call whose context ends waits for the claim to be given back,
//     which a read deadline forces at once; the rest of its reply is discarded.
//   - Only the reader completes calls when a connection ends. Everybody else
//     records the cause and makes the reader stop.
//   - There is no reconnection: a frozen disk that went away is gone.
//
// The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
package nbd
