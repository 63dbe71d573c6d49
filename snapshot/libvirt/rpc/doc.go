// Package rpc speaks with libvirt: its daemon's own protocol on its unix socket, as far
// as lull needs it. There is no other way from Go without cgo.
//
// Every message is a frame of big-endian XDR (RFC 4506):
//
//	length program version procedure type serial status payload
//
// length counts itself. type is a call, its reply, or a message that nobody asked for;
// a reply has its call's program, procedure and serial, and is an error where status
// says so. The layouts are those of libvirt's remote_protocol.x and qemu_protocol.x,
// whose numbers never change meaning.
//
// One connection, in the order in which Dial does it:
//
//	AUTH_LIST       none: go on. polkit: the daemon asks polkit about this process,
//	                which is one call. SASL: refused, lull has no secrets for it
//	CONNECT_OPEN    with the URI, as that is what chooses the driver
//	GET_LIB_VERSION older than MinVersion is refused
//
// A Conn has one goroutine that reads; it hands replies to the callers who wait for
// them and events to subscriptions. Another sends keep-alive requests when nothing has
// come for a while, and ends the connection when they stay unanswered: libvirtd's main
// loop answers them itself, so a daemon that hangs is told from one that works hard. A
// connection that has ended stays so; to make a new one is the caller's affair.
//
// A new procedure is one method of Conn: its number, its name for messages, its
// arguments and its results, in the order of the protocol file. See domain.go.
//
// Invariants:
//
//   - No more than MaxCalls are under way, so that a daemon that works long on some still
//     gives signs of life; one that nobody waits for any more counts until it is answered.
//   - Every call ends with its context at the latest, or after DefaultCall where that has no
//     deadline. What was asked may still be carried out.
//   - What the daemon sends is bounded before it is kept: frames (MaxFrame), strings
//     (MaxString), lists by the bytes that are left for them. A frame that does not add
//     up ends the connection with ErrProtocol, a result that does not is its call's.
//   - Events are hints. One can be lost, so who waits for something asks too.
//   - After Close no goroutine of the package runs.
package rpc
