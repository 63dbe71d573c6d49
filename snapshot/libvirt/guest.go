package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// agentTimeout is how long libvirt waits for the guest's agent where a call has no deadline,
// and for the sync before each. It is always set: without one libvirt waits for ever, and
// lets nobody else at the agent.
const agentTimeout = 15 * time.Second

// guest is the channel to the agent in a domain's guest. Of a call that was given up on
// libvirt waits for the answer until its own limit, as its agent answers one at a time.
type guest struct {
	qmp.Calls
	domain *domain

	mu     sync.Mutex
	of     rpc.Domain
	closed bool
}

var _ snapshot.Guest = (*guest)(nil)

// Guest finds the channel; nobody needs to answer for that. It has a connection of its own:
// an agent that hangs holds up nothing else.
func (d *domain) Guest(ctx context.Context) (snapshot.Guest, error) {
	own := &domain{identity: d.identity, link: d.link.another(), all: d.all}
	g, err := own.guest(ctx)
	if err != nil {
		return nil, errors.Join(err, own.link.end())
	}
	return g, nil
}

func (d *domain) guest(ctx context.Context) (*guest, error) {
	found, err := d.running(ctx)
	if errors.Is(err, qemu.ErrOff) && !errors.Is(err, snapshot.ErrNotFound) {
		err = fmt.Errorf("%w: %w", snapshot.ErrNoGuest, err)
	}
	if err != nil {
		return nil, err
	}
	def, err := d.xml(ctx, found, 0)
	if err != nil {
		return nil, err
	}
	if !def.agent {
		return nil, snapshot.WithHint(fmt.Errorf("domain %s: %w", d.name, snapshot.ErrNoGuest),
			"add a channel named "+agentChannel+" to the domain, and install qemu-guest-agent in it")
	}
	g := &guest{domain: d, of: found}
	g.Calls = qmp.Calls{Executor: g}
	return g, nil
}

// Close lets go of the channel.
func (g *guest) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	return g.domain.link.end()
}

// Execute runs a command of the agent. A restart of libvirt's daemon is waited for, but a
// command that was sent is not sent again.
func (g *guest) Execute(ctx context.Context, command string, args, result any) error {
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed {
		return fmt.Errorf("%s in the guest: %w", command, qmp.ErrClosed)
	}
	request := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args}
	text, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("%s in the guest: marshal arguments: %w", command, err)
	}
	answer, err := g.send(ctx, string(text))
	if err != nil {
		return g.failed(ctx, command, err)
	}
	return qmp.Decode([]byte(answer), command, result)
}

func (g *guest) send(ctx context.Context, text string) (answer string, err error) {
	limit := agentTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline)
	}
	err = g.domain.link.ask(ctx, func(c *rpc.Conn) error { return c.SetAgentTimeout(ctx, g.of, agentTimeout) })
	if err != nil {
		return "", err
	}
	err = g.domain.link.order(ctx, func(c *rpc.Conn) (err error) {
		answer, err = c.Agent(ctx, g.of, text, limit)
		return err
	})
	return answer, err
}

// refusal begins libvirt's words for what the agent has refused.
const refusal = "unable to execute QEMU agent command"

// failed says what an error means for the guest.
func (g *guest) failed(ctx context.Context, command string, err error) error {
	var said *rpc.Error
	switch {
	case errors.As(err, &said) && strings.Contains(said.Message, refusal):
		_, why, _ := strings.Cut(said.Message, "': ")
		return &qmp.Error{Command: command, Class: qmp.ClassGeneric, Desc: why}
	case rpc.HasCode(err, rpc.CodeNoDomain) || g.gone(ctx):
		err = fmt.Errorf("%w: %w", snapshot.ErrGone, err)
	// libvirt calls a domain that is paused not running: its guest is as it was.
	case rpc.HasCode(err, rpc.CodeOperationInvalid), ctx.Err() != nil && !errors.Is(err, snapshot.ErrGuestSilent):
		err = fmt.Errorf("%w: %w", snapshot.ErrGuestSilent, err)
	}
	return fmt.Errorf("%s in the guest: %w", command, err)
}

// gone tells whether the domain has ended since.
func (g *guest) gone(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	found, err := g.domain.running(ctx)
	return errors.Is(err, qemu.ErrOff) || err == nil && found.ID != g.of.ID
}
