package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// EventKind is libvirt's virDomainEventID.
type EventKind int32

// Kinds of events.
const (
	EventLifecycle      EventKind = 0
	EventReboot         EventKind = 1
	EventIOError        EventKind = 6 // with its reason
	EventControlError   EventKind = 7
	EventBlockJob       EventKind = 16 // that names the disk by its target
	EventAgentLifecycle EventKind = 18
	EventDeviceAdded    EventKind = 19
	EventDeviceRemoved  EventKind = 15
	EventBlockThreshold EventKind = 24
)

// What happened in an EventLifecycle.
const (
	LifecycleDefined     = 0
	LifecycleUndefined   = 1
	LifecycleStarted     = 2
	LifecycleSuspended   = 3
	LifecycleResumed     = 4
	LifecycleStopped     = 5
	LifecycleShutdown    = 6
	LifecyclePMSuspended = 7
	LifecycleCrashed     = 8
)

// Event is what a Subscription delivers. Fields that a kind does not have are zero.
type Event struct {
	Kind   EventKind
	Domain Domain
	// Code is what happened: of EventLifecycle a Lifecycle constant, of EventBlockJob
	// the BlockJobType, of EventAgentLifecycle 1 connected and 2 disconnected, of
	// EventIOError 0 nothing was done, 1 the domain paused, 2 the guest was told.
	Code int32
	// Detail of Code: why. Of EventBlockJob a BlockJobStatus.
	Detail int32
	Disk   string // target, such as vda: of EventBlockJob, EventBlockThreshold; else the device's alias
	Path   string // of EventIOError and EventBlockThreshold: the file
	Reason string // of EventIOError: such as enospc
	// Excess is by how many bytes an EventBlockThreshold is over its Threshold.
	Threshold, Excess uint64
}

// Subscription receives events.
type Subscription struct {
	c     *Conn
	ids   []int32
	queue chan Event
}

// queueLength is how many events wait for a subscriber before some are lost.
const queueLength = 64

// unsubscribeTimeout is how long Close of a Subscription waits for the daemon.
const unsubscribeTimeout = 10 * time.Second

// Subscribe receives events of these kinds from now on, of one domain, or of all when
// d is the zero Domain. Close it after use.
func (c *Conn) Subscribe(ctx context.Context, d Domain, kinds ...EventKind) (*Subscription, error) {
	s := &Subscription{c: c, queue: make(chan Event, queueLength)}
	for _, kind := range kinds {
		var of argument = u32(0) // all domains
		if d != (Domain{}) {
			of = present{d}
		}
		// CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY. The first event can be right behind
		// the reply, so the reader notes the id itself.
		err := c.exchange(ctx, remote(316, "subscribe to events"), args{i32(kind), of}, func(r *reader) error {
			id := int32(r.u32())
			if err := r.end(); err != nil {
				return err
			}
			s.ids = append(s.ids, id)
			c.listeners[id] = listener{s, kind}
			return nil
		})
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// present is an optional value that is there.
type present struct{ argument }

func (p present) put(w *writer) {
	w.u32(1)
	p.argument.put(w)
}

// listener is who gets the events of one callback.
type listener struct {
	sub  *Subscription
	kind EventKind
}

// Events are in order. The channel is never closed: select on Conn.Done too.
func (s *Subscription) Events() <-chan Event { return s.queue }

// Close ends the subscription. On a connection that has ended it does nothing.
func (s *Subscription) Close() error {
	s.c.mu.Lock()
	ids := s.ids
	s.ids = nil
	for _, id := range ids {
		delete(s.c.listeners, id)
	}
	over := s.c.err != nil
	s.c.mu.Unlock()
	if over {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), unsubscribeTimeout)
	defer cancel()
	var errs []error
	for _, id := range ids {
		// CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY
		err := s.c.call(ctx, remote(317, "end subscription"), args{i32(id)})
		if err != nil && !errors.Is(err, ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// offer queues an event; nobody takes it away: it is lost.
func (s *Subscription) offer(e Event) {
	select {
	case s.queue <- e:
	default:
	}
}

// message delivers an event; the caller holds c.mu. Events of kinds that are not
// known here belong to nobody.
func (c *Conn) message(h header, payload []byte) error {
	if h.program == programQEMU {
		return c.monitorEvent(h, payload)
	}
	if h.program != programRemote {
		return nil
	}
	parse := eventParser(h.procedure)
	if parse == nil {
		return nil
	}
	r := &reader{b: payload}
	id := int32(r.u32())
	var e Event
	e.Domain.get(r)
	parse(r, &e)
	if err := r.end(); err != nil {
		return fmt.Errorf("event %d: %w", h.procedure, err)
	}
	if l, ok := c.listeners[id]; ok {
		e.Kind = l.kind
		l.sub.offer(e)
	}
	return nil
}

// eventParser reads what comes after an event's domain; nil: unknown.
func eventParser(procedure uint32) func(*reader, *Event) {
	switch procedure {
	case 318: // DOMAIN_EVENT_CALLBACK_LIFECYCLE
		return func(r *reader, e *Event) { e.Code, e.Detail = int32(r.u32()), int32(r.u32()) }
	case 319, 325: // DOMAIN_EVENT_CALLBACK_REBOOT, _CONTROL_ERROR
		return func(*reader, *Event) {}
	case 324: // DOMAIN_EVENT_CALLBACK_IO_ERROR_REASON
		return func(r *reader, e *Event) {
			e.Path, e.Disk, e.Code, e.Reason = r.str(), r.str(), int32(r.u32()), r.str()
		}
	case 333, 354: // DOMAIN_EVENT_CALLBACK_DEVICE_REMOVED, _DEVICE_ADDED
		return func(r *reader, e *Event) { e.Disk = r.str() }
	case 339: // DOMAIN_EVENT_BLOCK_JOB_2
		return func(r *reader, e *Event) {
			e.Disk, e.Code, e.Detail = r.str(), int32(r.u32()), int32(r.u32())
		}
	case 348: // DOMAIN_EVENT_CALLBACK_AGENT_LIFECYCLE
		return func(r *reader, e *Event) { e.Code, e.Detail = int32(r.u32()), int32(r.u32()) }
	case 385: // DOMAIN_EVENT_BLOCK_THRESHOLD
		return func(r *reader, e *Event) {
			var path opt
			e.Disk = r.str()
			path.get(r)
			e.Path, e.Threshold, e.Excess = string(path), r.u64(), r.u64()
		}
	}
	return nil
}
