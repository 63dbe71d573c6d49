package qmp

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// MaxAgentLine bounds one message of a guest agent, in bytes. The longest honest
// one is guest-exec-status with two output streams of 16 MiB in base64.
const MaxAgentLine = 48 << 20

// DefaultSync is how long an agent may take to answer a sync. It answers at once
// unless it is busy with an earlier command.
const DefaultSync = 15 * time.Second

// AgentOptions of an Agent. The zero value is good.
type AgentOptions struct {
	Sync    time.Duration // 0: DefaultSync
	MaxLine int           // bytes; 0: MaxAgentLine
}

// Agent is the channel to the agent in a guest. It implements snapshot.Guest.
// Calls are carried out one at a time, in no particular order. The connection is
// made with the first call, and again after it was lost.
type Agent struct {
	Calls
	path string
	opt  AgentOptions

	turn  chan struct{} // holds the one who speaks
	conn  *net.UnixConn // with lines, belongs to the one who speaks
	lines *lineReader
	met   bool // was connected once: a socket that is gone now means that the VM is

	closing   sync.Once
	closed    chan struct{}
	sequences sequences
}

// sequences makes the ids of syncs; random, so that an answer meant for another
// client of the same agent is not taken for ours.
type sequences func() (int64, error)

var _ snapshot.Guest = (*Agent)(nil)

// NewAgent makes the channel to the agent behind a unix socket. It does not
// connect yet.
func NewAgent(path string, opt AgentOptions) *Agent {
	if opt.Sync <= 0 {
		opt.Sync = DefaultSync
	}
	if opt.MaxLine <= 0 {
		opt.MaxLine = MaxAgentLine
	}
	a := &Agent{path: path, opt: opt, turn: make(chan struct{}, 1), closed: make(chan struct{}),
		sequences: randomSequence}
	a.Calls = Calls{a}
	return a
}

func randomSequence() (int64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw a sync id: %w", err)
	}
	return int64(binary.LittleEndian.Uint64(b[:]) >> 12), nil // exact in any JSON number
}

// Close ends the channel. A call that is going on fails.
func (a *Agent) Close() error {
	a.closing.Do(func() { close(a.closed) })
	a.turn <- struct{}{} // whoever speaks has seen closed and ends
	defer func() { <-a.turn }()
	a.hangUp()
	return nil
}

// Connect connects now and not with the first call. Nobody needs to answer for
// that.
func (a *Agent) Connect(ctx context.Context) error {
	if err := a.begin(ctx); err != nil {
		return fmt.Errorf("connect to the guest: %w", err)
	}
	defer a.end()
	return a.call(ctx)
}

// begin waits for the turn to speak; end gives it on.
func (a *Agent) begin(ctx context.Context) error {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-a.closed:
		a.end()
		return ErrClosed
	default:
		return nil
	}
}

func (a *Agent) end() { <-a.turn }

// Execute runs a command in the agent and stores what it returns in result,
// unless that is nil. Errors: *Error when the agent refuses,
// snapshot.ErrUnreachable when there is no socket, snapshot.ErrGone when there was
// one before, snapshot.ErrGuestSilent when nobody answers, ErrClosed when the connection ends.
func (a *Agent) Execute(ctx context.Context, command string, args, result any) error {
	if err := a.begin(ctx); err != nil {
		return fmt.Errorf("%s in the guest: %w", command, err)
	}
	defer a.end()
	answer, err := a.converse(ctx, command, args)
	if err != nil {
		return fmt.Errorf("%s in the guest: %w", command, err)
	}
	return Decode(answer, command, result)
}

// converse syncs and sends one command, and returns the line that answers it.
// After an error that is no silence the connection is dropped.
func (a *Agent) converse(ctx context.Context, command string, args any) ([]byte, error) {
	if err := a.call(ctx); err != nil {
		return nil, err
	}
	var answer []byte
	err := a.bounded(ctx, a.opt.Sync, a.sync)
	if err == nil {
		err = a.bounded(ctx, 0, func() error {
			b, err := json.Marshal(request{Execute: command, Arguments: args})
			if err != nil {
				return fmt.Errorf("marshal arguments: %w", err)
			}
			if err := writeAll(a.conn, append(b, '\n'), nil); err != nil {
				return err
			}
			answer, err = a.lines.line()
			return err
		})
	}
	if err != nil && !errors.Is(err, snapshot.ErrGuestSilent) {
		a.hangUp()
	}
	return answer, err
}

// call connects unless that has been done.
func (a *Agent) call(ctx context.Context) error {
	if a.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.opt.Sync)
	defer cancel()
	conn, err := connect(ctx, a.path, "guest agent")
	if a.met && errors.Is(err, snapshot.ErrUnreachable) {
		return fmt.Errorf("%w: %w", snapshot.ErrGone, err)
	}
	if err != nil {
		return err
	}
	a.met = true
	a.conn, a.lines = conn, newLineReader(conn, a.opt.MaxLine)
	return nil
}

func (a *Agent) hangUp() {
	if a.conn != nil {
		_ = a.conn.Close() // nothing is buffered that could be lost
		a.conn, a.lines = nil, nil
	}
}

// bounded runs talk, which reads and writes, until ctx ends, the Agent is
// closed, or limit is over (0: none).
func (a *Agent) bounded(ctx context.Context, limit time.Duration, talk func() error) error {
	cancel := context.CancelFunc(func() {})
	if limit > 0 {
		ctx, cancel = context.WithTimeout(ctx, limit)
	}
	defer cancel()
	conn := a.conn
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	over, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-ctx.Done():
		case <-a.closed:
		case <-stop:
			return
		}
		_ = conn.SetDeadline(time.Unix(1, 0)) // ends talk; on a dead connection talk has ended
	}()
	err := talk()
	close(stop)
	<-over
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return a.silent(ctx.Err())
	case errors.Is(err, ErrProtocol):
		return err
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}

// silent is the error for an agent that has not answered in time. A caller who
// lost interest learns just that.
func (a *Agent) silent(err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", snapshot.ErrGuestSilent, err)
	}
	return snapshot.WithHint(silence{err},
		"check that qemu-guest-agent runs in the guest and that no other program holds "+a.path)
}

// silence is snapshot.ErrGuestSilent; that a deadline passed goes without saying.
type silence struct{ cause error }

func (s silence) Error() string   { return snapshot.ErrGuestSilent.Error() }
func (s silence) Unwrap() []error { return []error{snapshot.ErrGuestSilent, s.cause} }

// sync makes sure that the next line is the answer to the next command.
func (a *Agent) sync() error {
	id, err := a.sequences()
	if err != nil {
		return err
	}
	b, err := json.Marshal(request{Execute: "guest-sync-delimited", Arguments: map[string]int64{"id": id}})
	if err != nil {
		return fmt.Errorf("marshal sync: %w", err)
	}
	// The leading byte resets the agent's parser, whatever half message an
	// earlier client left in it.
	msg := append([]byte{0xFF}, append(b, '\n')...)
	if err := writeAll(a.conn, msg, nil); err != nil {
		return err
	}
	for {
		line, err := a.lines.line()
		if err != nil {
			return err
		}
		if isSync(line, id) {
			return nil
		}
	}
}

// isSync tells whether a line is the answer to the sync of that id. Everything
// before the delimiter belongs to someone else.
func isSync(line []byte, id int64) bool {
	i := bytes.LastIndexByte(line, 0xFF)
	if i < 0 {
		return false
	}
	m, err := parseAgent(line[i+1:])
	if err != nil || m.Error != nil {
		return false
	}
	var got int64
	return json.Unmarshal(m.Return, &got) == nil && got == id
}

// parseAgent reads an answer of an agent.
func parseAgent(line []byte) (message, error) {
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return message{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	switch {
	case w.Error != nil:
		return message{Error: &Error{Class: w.Error.Class, Desc: w.Error.Desc}}, nil
	case w.Return != nil:
		return message{Return: w.Return}, nil
	}
	return message{}, fmt.Errorf("%w: no answer", ErrProtocol)
}
