package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
)

// ContextAllocation is the meta context that Client.Extents is answered from.
const ContextAllocation = "base:allocation"

// Flags of the ContextAllocation and qemu:dirty-bitmap:NAME contexts.
const (
	StateHole  = 1 << 0 // base:allocation: not allocated
	StateZero  = 1 << 1 // base:allocation: reads as zeros
	StateDirty = 1 << 0 // qemu:dirty-bitmap: changed
)

// Errors to test for. A connection that was lost is snapshot.ErrGone.
var (
	ErrProtocol  = errors.New("NBD server breaks the protocol")
	ErrNoExport  = errors.New("no such NBD export")
	ErrNoContext = errors.New("NBD meta context was not granted")
	ErrClosed    = errors.New("NBD client is closed")
)

// ServerError is an error that the server answered a request with.
type ServerError struct {
	Errno uint32 // as in the protocol: Linux numbers
}

func (e *ServerError) Error() string {
	return fmt.Sprintf("NBD server answered error %d (%s)", e.Errno, errnoName(e.Errno))
}

// Is makes a server that shuts down a VM that went away.
func (e *ServerError) Is(target error) bool {
	return target == snapshot.ErrGone && e.Errno == errShutdown
}

const errShutdown = 108

func errnoName(n uint32) string {
	switch n {
	case 1:
		return "not permitted"
	case 5:
		return "input/output error"
	case 12:
		return "out of memory"
	case 22:
		return "invalid argument"
	case 28:
		return "no space"
	case 75:
		return "too large"
	case 95:
		return "not supported"
	case errShutdown:
		return "server is shutting down"
	}
	return "unknown"
}

// Wire constants, by the names that the protocol gives them.
const (
	magicInit       = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply   = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optAbort           = 2
	optGo              = 7
	optStructuredReply = 8
	optSetMetaContext  = 10

	repAck         = 1
	repInfo        = 3
	repMetaContext = 4
	repError       = 1 << 31
	repErrUnsup    = repError | 1
	repErrTLSReqd  = repError | 5
	repErrUnknown  = repError | 6

	infoExport    = 0
	infoBlockSize = 3

	cmdRead        = 0
	cmdDisconnect  = 2
	cmdBlockStatus = 7

	chunkDone = 1 << 0

	chunkNone        = 0
	chunkData        = 1
	chunkHole        = 2
	chunkBlockStatus = 5
	chunkError       = 1 << 15
	chunkErrOffset   = chunkError | 2
)

// Transmission flags of an export, see Client.Flags.
const (
	FlagReadOnly     = 1 << 1
	FlagCanMultiConn = 1 << 8
)

// Limits on what a server may make us hold.
const (
	maxString       = 4096      // the protocol's bound on names and messages
	maxOptReplies   = 64        // replies to one option
	maxInFlight     = 64        // requests of one connection, abandoned ones included
	maxSpans        = 4096      // disjoint pieces of one read that arrive out of order
	maxDescriptors  = 1 << 20   // extents in one block-status answer
	maxErrorPayload = 6 + 65535 // errno, message length, message
	defaultMaxBlock = 32 << 20  // what the protocol allows where the server says nothing
	maxStatusLength = 1 << 30   // of one block-status request
)

var be = binary.BigEndian

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
}
