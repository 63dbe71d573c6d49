package qmp

import (
	"slices"
	"sync"
)

// Hub hands the events of one monitor to all who subscribed. The zero value is ready.
type Hub struct {
	mu   sync.Mutex
	subs map[*Subscription]struct{}
}

// Subscription receives events. Events are hints: one can be lost, so whoever
// waits for something asks the monitor after each event, and now and then anyway.
type Subscription struct {
	hub   *Hub
	names []string
	queue chan Event
}

// queueLength is how many events wait for a subscriber before some are lost.
const queueLength = 64

// Subscribe receives the events of these names from now on; all of them when no
// name is given. Close it after use.
func (h *Hub) Subscribe(names ...string) *Subscription {
	s := &Subscription{hub: h, names: names, queue: make(chan Event, queueLength)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = map[*Subscription]struct{}{}
	}
	h.subs[s] = struct{}{}
	return s
}

// Publish hands an event to its subscribers. It does not wait for them.
func (h *Hub) Publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.offer(e)
	}
}

// Events are in order. The channel is never closed: select on Monitor.Done too.
func (s *Subscription) Events() <-chan Event { return s.queue }

// Close ends the subscription.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subs, s)
}

// offer queues an event; the caller holds the hub's lock.
func (s *Subscription) offer(e Event) {
	if len(s.names) > 0 && !slices.Contains(s.names, e.Name) {
		return
	}
	select {
	case s.queue <- e:
	default: // lost: whoever waits asks the monitor too
	}
}
