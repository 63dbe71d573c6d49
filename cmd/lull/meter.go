package main

import "sync"

// meterStep is how many bytes lie between two words about progress.
const meterStep = 8 << 20

// meter adds up progress that comes from several goroutines, and tells of it now and
// then.
type meter struct {
	tell func(done int64)

	mu         sync.Mutex
	done, told int64
}

func newMeter(tell func(done int64)) *meter { return &meter{tell: tell} }

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done += n; m.done-m.told >= meterStep {
		m.told = m.done
		m.tell(m.done)
	}
}
