package rpc

import (
	"context"
	"fmt"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// Procedures of the keep-alive program.
const (
	keepalivePing = 1
	keepalivePong = 2
)

// sign is called by the reader for each keep-alive frame.
func (c *Conn) sign(procedure uint32) {
	if procedure != keepalivePing {
		return // a pong: that something came has been noted
	}
	select {
	case c.pongs <- struct{}{}:
	default: // one is on its way
	}
}

// keepAlive answers the daemon's requests and makes its own, until the connection ends.
func (c *Conn) keepAlive() {
	tick := time.NewTicker(c.opt.Keepalive)
	defer tick.Stop()
	strikes := 0
	for {
		select {
		case <-c.done:
			return
		case <-c.pongs:
			c.sendSign(keepalivePong)
		case <-tick.C:
			if c.heard.Swap(false) {
				strikes = 0
				continue
			}
			if strikes == c.opt.Strikes {
				c.end(c.silent())
				return
			}
			strikes++
			c.sendSign(keepalivePing)
		}
	}
}

// sendSign gives up when the daemon has not taken the frame within the time in which it
// would have been silent anyway; then the connection has ended.
func (c *Conn) sendSign(procedure uint32) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), c.opt.Keepalive*time.Duration(c.opt.Strikes), c.silent())
	defer cancel()
	_ = c.send(ctx, header{program: programKeepalive, procedure: procedure, kind: typeMessage}, nil, nil)
}

func (c *Conn) silent() error {
	after := c.opt.Keepalive * time.Duration(c.opt.Strikes+1)
	return snapshot.WithHint(fmt.Errorf("%w: no sign of life for %v", ErrSilent, after),
		"restart libvirt's daemon (systemctl restart libvirtd, or virtqemud): VMs run on meanwhile")
}
