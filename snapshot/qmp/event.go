package qmp

import "slices"

// Subscription receives events. Events are hints: one can be lost, so whoever
// waits for something asks the monitor after each event, and now and then anyway.
type Subscription struct {
	c     *Client
	names []string
	queue chan Event
}

// queueLength is how many events wait for a subscriber before some are lost.
const queueLength = 64

// Subscribe receives the events of these names from now on; all of them when no
// name is given. Close it after use.
func (c *Client) Subscribe(names ...string) *Subscription {
	s := &Subscription{c: c, names: names, queue: make(chan Event, queueLength)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs[s] = struct{}{}
	return s
}

// Events are in order. The channel is never closed: select on Client.Done too.
func (s *Subscription) Events() <-chan Event { return s.queue }

// Close ends the subscription.
func (s *Subscription) Close() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	delete(s.c.subs, s)
}

// offer queues an event; the caller holds c.mu.
func (s *Subscription) offer(e Event) {
	if len(s.names) > 0 && !slices.Contains(s.names, e.Name) {
		return
	}
	select {
	case s.queue <- e:
	default: // lost: whoever waits asks the monitor too
	}
}
