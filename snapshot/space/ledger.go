package space

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Share is what one run takes of one file system, in bytes.
type Share struct {
	// Expected is what it may come to take at once, merging included; 0: not known.
	Expected int64
	// Taken is what it takes of that now.
	Taken int64
	// Merge is what its images would grow by if its deltas were merged now.
	Merge int64
}

// due is what the run may still take.
func (s Share) due() int64 { return max(s.Expected-s.Taken, s.Merge) }

// Demand is a share of a file system that a run asks for.
type Demand struct {
	Room
	Share
}

// Ledger is the account of the runs of one process. The zero Ledger is empty. Its
// methods are safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	runs    map[string]*entry
	changed chan struct{} // closed when a run ends
}

// entry is one run.
type entry struct {
	running bool // it was begun, and will end by itself
	of      map[uint64]Share
}

// lookAgain is how often one who waits looks whether room has come from elsewhere.
const lookAgain = 10 * time.Second

// Begin enters a run once what it asks for fits beside what others may take. While
// others of this process run there it waits for them; waiting is told once, why. look
// is called anew after each wait. waited: what was known of the VM may be old.
func (l *Ledger) Begin(ctx context.Context, run string, look func() ([]Demand, error), waiting func(why string)) (waited bool, err error) {
	for {
		demands, err := look()
		if err != nil {
			return waited, err
		}
		wait, why := l.enter(run, demands)
		if wait == nil {
			return waited, why
		}
		if !waited {
			waiting(why.Error())
		}
		waited = true
		if err := await(ctx, wait); err != nil {
			return waited, err
		}
	}
}

func await(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// enter enters a run, or says why not, and what to wait for if that is of use.
func (l *Ledger) enter(run string, demands []Demand) (<-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range demands {
		others := l.others(run, d.Device)
		err := d.fits(others.due)
		if err == nil {
			continue
		}
		if others.running {
			return l.change(), err
		}
		return nil, err
	}
	e := l.entryOf(run)
	e.running = true
	clear(e.of)
	for _, d := range demands {
		e.of[d.Device] = d.Share
	}
	return nil, nil
}

// Fits is Begin for one who neither waits nor is entered.
func (l *Ledger) Fits(run string, demands []Demand) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range demands {
		if err := d.fits(l.others(run, d.Device).due); err != nil {
			return err
		}
	}
	return nil
}

// entryOf is the entry of a run, made where there is none; the caller holds l.mu.
func (l *Ledger) entryOf(run string) *entry {
	e := l.runs[run]
	if e != nil {
		return e
	}
	if l.runs == nil {
		l.runs = map[string]*entry{}
	}
	e = &entry{of: map[uint64]Share{}}
	l.runs[run] = e
	return e
}

// change is closed at the next end of a run; the caller holds l.mu.
func (l *Ledger) change() <-chan struct{} {
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

func (l *Ledger) tell() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// fits fails where less is free than a run should begin with, beside what others may
// take, or less than this one is expected to take.
func (d Demand) fits(others int64) error {
	free := d.Free - others
	beside := ""
	if others > 0 {
		beside = fmt.Sprintf(" beside the %s of other runs", Bytes(others))
	}
	if free < d.Soft+d.Merge {
		return d.short(d.Free, Bytes(d.Soft+d.Merge)+" are needed to begin"+beside)
	}
	if missing := d.Expected + d.Hard - free; d.Expected > 0 && missing > 0 {
		return d.short(d.Free, fmt.Sprintf("this run is expected to take %s%s, and %s stay free: %s are missing",
			Bytes(d.Expected), beside, Bytes(d.Hard), Bytes(missing)))
	}
	return nil
}

// rest is what all runs but one have to do with a file system.
type rest struct {
	due     int64 // they may still take
	merge   int64 // merging them now would take
	largest int64 // of what one that runs has taken
	running bool  // one of them runs
}

func (l *Ledger) others(run string, device uint64) (r rest) {
	for name, e := range l.runs {
		s, there := e.of[device]
		if name == run || !there {
			continue
		}
		r.due += s.due()
		r.merge += s.Merge
		if e.running { // one that has ended makes no room by ending
			r.largest, r.running = max(r.largest, s.Taken), true
		}
	}
	return r
}

// Look notes what a run takes of a file system by now, and says how near it is to the
// lines there: ErrNoSpace, the run has to end. tight: no other should begin. left is
// how many bytes may be written until either changes, all runs together.
func (l *Ledger) Look(run string, d Demand) (left int64, tight bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entryOf(run)
	share := e.of[d.Device]
	share.Taken, share.Merge = d.Taken, d.Merge
	e.of[d.Device] = share
	others := l.others(run, d.Device)
	merge := d.Merge + others.merge
	hard, soft := d.Hard+merge, d.Soft+merge
	if d.Taken < others.largest {
		hard = d.Hard/2 + merge // the larger one ends first, and its merge makes room
	}
	if d.Free < hard {
		return 0, true, d.short(d.Free, fmt.Sprintf("the run ends while the last %s are free", Bytes(hard)))
	}
	if d.Free < soft {
		return d.Free - hard, true, nil
	}
	return d.Free - soft, false, nil
}

// Claim sets room aside that a run has come to need at once, if so much is there and a run
// could still begin beside it. nil: it is not, need bytes would have to be free.
func (l *Ledger) Claim(run string, r Room, bytes int64) (giveBack func(), need int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if need = bytes + r.Soft + l.others(run, r.Device).due; r.Free < need {
		return nil, need
	}
	e := l.entryOf(run)
	share := e.of[r.Device]
	before := share.Expected
	share.Expected = max(before, share.Taken+bytes)
	e.of[r.Device] = share
	return func() { l.expect(run, r.Device, before) }, need
}

// expect changes what a run is expected to take, if it is still in the account.
func (l *Ledger) expect(run string, device uint64, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.runs[run]
	if e == nil {
		return
	}
	share, there := e.of[device]
	if there && share.Expected > bytes { // else it has ended
		share.Expected = bytes
		e.of[device] = share
	}
	l.tell()
}

// End notes that a run is over. What its deltas take stays in the account until they
// are merged.
func (l *Ledger) End(run string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.runs[run]; e != nil {
		e.running = false
		for device, s := range e.of {
			s.Expected = 0
			e.of[device] = s
		}
	}
	l.tell()
}

// Merged takes a run out of the account: it has no deltas any more.
func (l *Ledger) Merged(run string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.runs, run)
	l.tell()
}

// Runs lists the runs in the account, sorted.
func (l *Ledger) Runs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.runs))
}

// Due is what other runs may still take of a file system.
func (l *Ledger) Due(run string, device uint64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.others(run, device).due
}
