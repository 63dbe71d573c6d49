package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// maxFarewell bounds what a server may say between a goodbye and its hanging up, in bytes.
const maxFarewell = 64 << 10

// Settle says hello to a server and goodbye, and returns when the server has hung up.
// A server that serves its clients in turn has then noticed of everyone who left before
// that they are gone. QEMU's needs it: until 8.2 nbd-server-stop waits for ever, and the
// guest with it, for a client that left, unnoticed yet, before it had chosen an export.
// ErrNotExist or ECONNREFUSED: nobody listens at the address.
func Settle(ctx context.Context, network, address string) error {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	if err = leave(nc); err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("take leave of the NBD server at %s: %w", address, err)
	}
	return nil
}

func leave(rw io.ReadWriter) error {
	n := negotiation{rw: rw}
	if err := n.greet(); err != nil {
		return err
	}
	if err := n.option(optAbort, nil); err != nil {
		return err
	}
	read, err := io.Copy(io.Discard, io.LimitReader(rw, maxFarewell)) // to the end of the stream
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return nil // hung up as well
	case err == nil && read == maxFarewell:
		return violation("endless farewell")
	}
	return err
}
