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
// The generated files are committed; generate.sh makes them again, byte for byte.
package proto

//go:generate ./generate.sh
