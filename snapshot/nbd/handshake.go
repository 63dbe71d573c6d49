package nbd

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/lull-backup/lull/snapshot"
)

// exportInfo is what negotiation found out. It does not change afterwards.
type exportInfo struct {
	size       int64 // as the server says, perhaps no multiple of 512
	flags      uint16
	minBlock   int64 // requests are multiples of it
	maxBlock   int64 // of one read
	structured bool
	contexts   map[string]uint32
}

// negotiation speaks the option phase over a stream.
type negotiation struct {
	rw     io.ReadWriter
	export string
}

// negotiate runs the handshake up to the transmission phase.
func negotiate(rw io.ReadWriter, export string, contexts []string) (exportInfo, error) {
	n := negotiation{rw: rw, export: export}
	info := exportInfo{minBlock: 1, maxBlock: defaultMaxBlock, contexts: map[string]uint32{}}
	if err := n.greet(); err != nil {
		return info, err
	}
	var err error
	if info.structured, err = n.structuredReplies(); err != nil {
		return info, err
	}
	if info.structured && len(contexts) > 0 {
		if err := n.setContexts(contexts, info.contexts); err != nil {
			return info, err
		}
	}
	return info, n.enter(&info)
}

func (n *negotiation) greet() error {
	var b [18]byte
	if _, err := io.ReadFull(n.rw, b[:]); err != nil {
		return fmt.Errorf("read greeting: %w", noEOF(err))
	}
	if be.Uint64(b[:]) != magicInit || be.Uint64(b[8:]) != magicOption {
		return violation("this is no newstyle NBD server")
	}
	server := be.Uint16(b[16:])
	if server&flagFixedNewstyle == 0 {
		return fmt.Errorf("%w: NBD server without fixed newstyle negotiation", snapshot.ErrUnsupported)
	}
	var reply [4]byte
	be.PutUint32(reply[:], uint32(server&(flagFixedNewstyle|flagNoZeroes)))
	_, err := n.rw.Write(reply[:])
	return err
}

func (n *negotiation) structuredReplies() (bool, error) {
	if err := n.option(optStructuredReply, nil); err != nil {
		return false, err
	}
	kind, payload, err := n.reply(optStructuredReply)
	switch {
	case err != nil:
		return false, err
	case kind == repAck:
		return true, nil
	case kind == repErrUnsup:
		return false, nil
	}
	return false, n.refusal("structured replies", kind, payload)
}

// setContexts asks for meta contexts and stores the ids of those granted.
func (n *negotiation) setContexts(asked []string, granted map[string]uint32) error {
	data := appendString(nil, n.export)
	data = be.AppendUint32(data, uint32(len(asked)))
	for _, name := range asked {
		data = appendString(data, name)
	}
	if err := n.option(optSetMetaContext, data); err != nil {
		return err
	}
	for range maxOptReplies {
		kind, payload, err := n.reply(optSetMetaContext)
		switch {
		case err != nil:
			return err
		case kind == repAck:
			return nil
		case kind&repError != 0:
			return n.contextsRefused(kind, payload)
		case kind != repMetaContext || len(payload) < 4:
			return violation("option reply %#x to a request for meta contexts", kind)
		}
		id, name := be.Uint32(payload), string(payload[4:])
		if _, twice := granted[name]; twice || !slices.Contains(asked, name) {
			return violation("meta context %q was not asked for, or granted twice", name)
		}
		for other, used := range granted {
			if used == id {
				return violation("meta contexts %q and %q share an id", other, name)
			}
		}
		granted[name] = id
	}
	return violation("endless replies to a request for meta contexts")
}

func (n *negotiation) contextsRefused(kind uint32, payload []byte) error {
	if kind == repErrUnsup {
		return nil // no contexts then: everything counts as data
	}
	return n.refusal("meta contexts", kind, payload)
}

// enter asks for the export itself and learns its facts.
func (n *negotiation) enter(info *exportInfo) error {
	data := appendString(nil, n.export)
	data = be.AppendUint16(data, 1)
	data = be.AppendUint16(data, infoBlockSize)
	if err := n.option(optGo, data); err != nil {
		return err
	}
	known := false
	for range maxOptReplies {
		kind, payload, err := n.reply(optGo)
		switch {
		case err != nil:
			return err
		case kind == repAck && !known:
			return violation("export without a size")
		case kind == repAck:
			return nil
		case kind != repInfo:
			return n.refusal("export", kind, payload)
		case len(payload) < 2:
			return violation("information of %d bytes", len(payload))
		}
		if be.Uint16(payload) == infoExport {
			known = true
		}
		if err := info.learn(be.Uint16(payload), payload[2:]); err != nil {
			return err
		}
	}
	return violation("endless information about an export")
}

func (info *exportInfo) learn(kind uint16, b []byte) error {
	switch kind {
	case infoExport:
		if len(b) != 10 {
			return violation("export information of %d bytes", len(b))
		}
		size := be.Uint64(b)
		if size > math.MaxInt64-sectorSize {
			return violation("export of %d bytes", size)
		}
		info.size, info.flags = int64(size), be.Uint16(b[8:])
	case infoBlockSize:
		if len(b) != 12 {
			return violation("block sizes of %d bytes", len(b))
		}
		return info.learnBlocks(int64(be.Uint32(b)), int64(be.Uint32(b[8:])))
	}
	return nil
}

func (info *exportInfo) learnBlocks(smallest, largest int64) error {
	if smallest < 1 || smallest > 64<<10 || smallest&(smallest-1) != 0 {
		return violation("minimum block size of %d bytes", smallest)
	}
	if largest < max(smallest, sectorSize) {
		return violation("maximum block size of %d bytes", largest)
	}
	info.minBlock = smallest
	info.maxBlock = min(largest, defaultMaxBlock) / smallest * smallest
	return nil
}

func (n *negotiation) option(opt uint32, data []byte) error {
	b := be.AppendUint64(make([]byte, 0, 16+len(data)), magicOption)
	b = be.AppendUint32(b, opt)
	b = be.AppendUint32(b, uint32(len(data)))
	_, err := n.rw.Write(append(b, data...))
	return err
}

func (n *negotiation) reply(opt uint32) (kind uint32, payload []byte, err error) {
	var b [20]byte
	if _, err := io.ReadFull(n.rw, b[:]); err != nil {
		return 0, nil, fmt.Errorf("read option reply: %w", noEOF(err))
	}
	if be.Uint64(b[:]) != magicOptReply || be.Uint32(b[8:]) != opt {
		return 0, nil, violation("reply to another option")
	}
	kind = be.Uint32(b[12:])
	length := be.Uint32(b[16:])
	if length > maxString+16 {
		return 0, nil, violation("option reply of %d bytes", length)
	}
	payload = make([]byte, length)
	if _, err := io.ReadFull(n.rw, payload); err != nil {
		return 0, nil, fmt.Errorf("read option reply: %w", noEOF(err))
	}
	return kind, payload, nil
}

// refusal is the error for a reply that does not grant what was asked.
func (n *negotiation) refusal(what string, kind uint32, message []byte) error {
	switch kind {
	case repErrUnknown:
		return fmt.Errorf("%w: %q", ErrNoExport, n.export)
	case repErrUnsup:
		return fmt.Errorf("%w: NBD server cannot negotiate %s", snapshot.ErrUnsupported, what)
	case repErrTLSReqd:
		return fmt.Errorf("%w: NBD server asks for TLS", snapshot.ErrUnsupported)
	}
	if kind&repError == 0 {
		return violation("reply %#x to a request for %s", kind, what)
	}
	return fmt.Errorf("NBD server refuses %s for %q: %q (%#x)", what, n.export, message, kind)
}

func appendString(b []byte, s string) []byte {
	return append(be.AppendUint32(b, uint32(len(s))), s...)
}

// noEOF is err, with an end of the stream made the fault that it is here.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
