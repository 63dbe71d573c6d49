package rpc

import (
	"context"
	"errors"
	"os"
	"time"
)

// MonitorFile is Monitor with an open file passed along, as getfd wants it. The caller
// still closes its file.
func (c *Conn) MonitorFile(ctx context.Context, d Domain, command string, file *os.File) (string, error) {
	var answer str
	// DOMAIN_MONITOR_COMMAND_WITH_FILES, since 8.2
	err := c.callFile(ctx, qemu(7, "send monitor command with a file"), file, args{d, str(command), u32(0)}, &answer)
	return string(answer), err
}

// MonitorEvent is what a domain's QEMU said on its monitor without being asked.
type MonitorEvent struct {
	Name string
	Data string // JSON; empty: nothing
	Time time.Time
}

// MonitorSubscription receives the events of one domain's QEMU.
type MonitorSubscription struct {
	c     *Conn
	id    int32
	queue chan MonitorEvent
}

// SubscribeMonitor receives them from now on. Close it after use.
func (c *Conn) SubscribeMonitor(ctx context.Context, d Domain) (*MonitorSubscription, error) {
	s := &MonitorSubscription{c: c, queue: make(chan MonitorEvent, queueLength)}
	// CONNECT_DOMAIN_MONITOR_EVENT_REGISTER; all events, by no name
	err := c.exchange(ctx, qemu(4, "subscribe to monitor events"), args{present{d}, opt(""), u32(0)}, func(r *reader) error {
		id := int32(r.u32())
		if err := r.end(); err != nil {
			return err
		}
		s.id = id
		c.monitors[id] = s
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Events are in order. The channel is never closed: select on Conn.Done too.
func (s *MonitorSubscription) Events() <-chan MonitorEvent { return s.queue }

// Close ends the subscription. On a connection that has ended it does nothing.
func (s *MonitorSubscription) Close() error {
	s.c.mu.Lock()
	delete(s.c.monitors, s.id)
	over := s.c.err != nil
	s.c.mu.Unlock()
	if over {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), unsubscribeTimeout)
	defer cancel()
	// CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER
	err := s.c.call(ctx, qemu(5, "end subscription to monitor events"), args{i32(s.id)})
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// monitorEvent delivers an event of a monitor; the caller holds c.mu.
func (c *Conn) monitorEvent(h header, payload []byte) error {
	if h.procedure != 6 { // DOMAIN_MONITOR_EVENT
		return nil
	}
	r := &reader{b: payload}
	id := int32(r.u32())
	new(Domain).get(r)
	e := MonitorEvent{Name: r.str()}
	e.Time = time.Unix(int64(r.u64()), int64(r.u32())*int64(time.Microsecond))
	var data opt
	data.get(r)
	e.Data = string(data)
	if err := r.end(); err != nil {
		return err
	}
	if s := c.monitors[id]; s != nil {
		select {
		case s.queue <- e:
		default: // lost: whoever waits asks too
		}
	}
	return nil
}
