package main

import (
	"sync"
	"time"

	"github.com/lull-backup/lull/snapshot/guesttest"
)

// ackWatch notes at which moment of this host's clock the guest had which record
// safe, so that the demo can say afterwards what a snapshot of some instant must hold.
type ackWatch struct {
	quit chan struct{}
	once sync.Once
	done chan struct{}

	mu   sync.Mutex
	seen []ack
}

type ack struct {
	at     time.Time
	record uint64
}

const watchEvery = 5 * time.Millisecond

func watchAcks(g *guesttest.Guest) *ackWatch {
	w := &ackWatch{quit: make(chan struct{}), done: make(chan struct{})}
	go w.run(g)
	return w
}

func (w *ackWatch) run(g *guesttest.Guest) {
	defer close(w.done)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		// An unreadable file is one note less, which asks less of the snapshot
		// but never wrongly much; the proof demands that there are notes.
		if n, err := g.Acked(); err == nil {
			w.note(ack{at: time.Now(), record: n})
		}
		select {
		case <-w.quit:
			return
		case <-tick.C:
		}
	}
}

func (w *ackWatch) note(a ack) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.seen); n == 0 || w.seen[n-1].record < a.record {
		w.seen = append(w.seen, a)
	}
}

// before is the last record that was known to be safe before an instant; 0: none.
func (w *ackWatch) before(t time.Time) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var last uint64
	for _, a := range w.seen {
		if a.at.Before(t) {
			last = a.record
		}
	}
	return last
}

// last is the last record known to be safe now.
func (w *ackWatch) last() uint64 { return w.before(time.Now()) }

// stop ends the watch. Safe to call twice.
func (w *ackWatch) stop() {
	w.once.Do(func() { close(w.quit) })
	<-w.done
}
