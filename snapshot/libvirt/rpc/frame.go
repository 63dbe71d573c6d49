package rpc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// MaxFrame bounds a frame either way, in bytes: VIR_NET_MESSAGE_MAX and its length.
const MaxFrame = 32<<20 + 4

// headerSize is the length and six words.
const headerSize = 28

// Programs.
const (
	programRemote    = 0x20008086
	programQEMU      = 0x20008087
	programKeepalive = 0x6b656570 // "keep"
)

// version of every program.
const version = 1

// Types of frames.
const (
	typeCall    = 0
	typeReply   = 1
	typeMessage = 2
	// With open files, whose number stands before the payload; each of them comes with a
	// byte of its own after the frame.
	typeCallFiles  = 4
	typeReplyFiles = 5
)

// Statuses of replies.
const (
	statusOK    = 0
	statusError = 1
)

// header is what stands before a payload.
type header struct {
	program, procedure, kind, serial, status uint32
}

// frame is a header with the payload after it. The version is one.
func frame(h header, payload []byte) ([]byte, error) {
	size := headerSize + len(payload)
	if size > MaxFrame {
		return nil, fmt.Errorf("%w: a call of %d bytes", ErrProtocol, size)
	}
	b := make([]byte, 0, size)
	for _, v := range []uint32{uint32(size), h.program, version, h.procedure, h.kind, h.serial, h.status} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, payload...), nil
}

// readFrame reads one frame. Memory grows with what comes, not with what the length
// promises.
func readFrame(r io.Reader) (header, []byte, error) {
	var fixed [headerSize]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return header{}, nil, err
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(fixed[4*i:]) }
	size := word(0)
	if size < headerSize || size > MaxFrame {
		return header{}, nil, fmt.Errorf("%w: a frame of %d bytes", ErrProtocol, size)
	}
	if word(2) != version {
		return header{}, nil, fmt.Errorf("%w: version %d of program %#x", ErrProtocol, word(2), word(1))
	}
	var payload bytes.Buffer
	n, err := io.CopyN(&payload, r, int64(size)-headerSize)
	if err == io.EOF && n < int64(size)-headerSize {
		err = io.ErrUnexpectedEOF
	}
	h := header{program: word(1), procedure: word(3), kind: word(4), serial: word(5), status: word(6)}
	return h, payload.Bytes(), err
}
