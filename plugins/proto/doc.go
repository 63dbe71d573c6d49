// Package proto is the wire protocol between lull and its writer plugins:
// writer.proto, the Go code generated from it, and the numbers that both sides
// must agree on.
//
// A plugin is a program that lull starts with the handshake of hashicorp/go-plugin,
// protocol gRPC, mutual TLS with certificates of this one start. It prints one
// line to its standard output:
//
//	1|1|unix|SOCKET|grpc|CERTIFICATE
//
// and serves Writer on the socket, beside go-plugin's own services. SOCKET lies in
// the folder named by PLUGIN_UNIX_SOCKET_DIR. The Guest service is reached through
// go-plugin's broker.
//
// Versions. lull lists the versions of the protocol that it speaks in
// PLUGIN_PROTOCOL_VERSIONS, the plugin answers in the second field of its line with
// the highest that it speaks too, or else with its own, which lull refuses by name.
// Version 1 grows by fields, calls and enum values only, and testdata/writer-v1.txt
// keeps every one that was ever there: TestCompatible. Both sides ignore fields that
// they do not know, take unknown enum values for 0, and take UNIMPLEMENTED for the
// answer of a peer that is older. What cannot grow that way is version 2, in a
// package of its own, served beside version 1.
//
// The generated files are committed; generate.sh makes them again, byte for byte.
package proto

//go:generate ./generate.sh
