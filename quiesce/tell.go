package quiesce

import "time"

// patience is how long a step waits until the caller has heard of it.
const patience = 100 * time.Millisecond

// step tells the caller how far the walk is. Steps come in order. A caller that
// hangs, on a terminal that was stopped for instance, hears of them late: it must
// not keep the guest frozen.
func (r *run) step(s Step) {
	if r.Step == nil {
		return
	}
	before, told := r.told, make(chan struct{})
	r.told = told
	go func() {
		defer close(told)
		if before != nil {
			<-before
		}
		r.Step(s)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-told:
	case <-timer.C:
	}
}

// heard waits until the caller has heard of every step.
func (r *run) heard() {
	if r.told != nil {
		<-r.told
	}
}
