package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
)

// ErrCrashed is what every operation returns after a crash.
var ErrCrashed = errors.New("store: simulated crash")

// Op is a kind of operation.
type Op string

const (
	Any    Op = ""
	Create Op = "create"
	Read   Op = "read"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
	Retain Op = "retain"
	Change Op = "change" // Create or Delete
)

func (o Op) has(op Op) bool {
	return o == Any || o == op || o == Change && (op == Create || op == Delete)
}

// Fault says what goes wrong with which operations.
type Fault struct {
	Op     Op     // of this kind; Any: of every kind
	Prefix string // of names, or prefixes listed, that start so
	Nth    int    // the Nth of those from when the fault was added, from 1; 0: all
	For    int    // with Nth, so many from there on; 0: one

	Before error           // fails with this, and does nothing
	After  error           // does it all, then fails with this: a lost reply
	Hold   <-chan struct{} // waits until this is closed, or ctx is done
	While  func()          // is called before anything is done: what others do meanwhile
	Twice  bool            // sends it twice, and the answer is the second one's
	Flip   int64           // if > 0, flips this bit of what is read, from 1
	Cut    int64           // if > 0, returns that many bytes fewer than asked for
	Torn   int64           // if > 0, stores so many bytes at most, and crashes
}

// hits tells whether the fault is in the way of the operation of that number.
func (f *Fault) hits(number int) bool {
	return f.Nth == 0 || number >= f.Nth && number < f.Nth+max(f.For, 1)
}

// Store is the decorator.
type Store struct {
	inner blob.Store

	mu      sync.Mutex
	faults  []*armed
	log     []string
	changes int
	limit   int // of changes; < 0: none
	crashed bool
}

type armed struct {
	Fault
	seen int
}

// New puts a decorator around inner that does nothing but write down, at first.
func New(inner blob.Store) *Store { return &Store{inner: inner, limit: -1} }

// Add arms a fault. Of several that match one operation the first added counts.
func (s *Store) Add(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &armed{Fault: f})
}

// Heal disarms all faults, but no crash.
func (s *Store) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// CrashAfter lets n more creations and deletions begin, and fails every operation
// after them. An operation that begins while the nth is going on may still end.
func (s *Store) CrashAfter(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = s.changes + n
	s.crashed = false
}

// Crashed reports whether an operation was refused by a crash.
func (s *Store) Crashed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.crashed
}

// Changes is the number of creations and deletions let through.
func (s *Store) Changes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// Log is every operation since the last ClearLog, in the order in which they
// began, a line each: "create packs/ab 1234", "read packs/ab 0+100", "read packs/ab
// 5+", "stat x", "list packs/", "delete x". What failed on purpose ends in
// "failed", "reply lost", "twice", "torn" or "crashed".
func (s *Store) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.log) == 0 {
		return ""
	}
	return strings.Join(s.log, "\n") + "\n"
}

// ClearLog forgets the log so far.
func (s *Store) ClearLog() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// begin writes the operation down and says what is to happen to it.
func (s *Store) begin(ctx context.Context, op Op, name, detail string) (Fault, error) {
	f, err := s.plan(op, name, strings.TrimSpace(string(op)+" "+name+" "+detail))
	if err != nil {
		return f, err
	}
	if f.While != nil {
		f.While()
	}
	if f.Hold != nil {
		select {
		case <-f.Hold:
		case <-ctx.Done():
			return f, ctx.Err()
		}
	}
	return f, f.Before
}

func (s *Store) plan(op Op, name, line string) (Fault, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit >= 0 && (s.crashed || s.changes >= s.limit) {
		s.crashed = true
		s.log = append(s.log, line+" crashed")
		return Fault{}, ErrCrashed
	}
	f := s.match(op, name)
	switch {
	case f.Before != nil:
		line += " failed"
	case Change.has(op):
		s.changes++
	}
	switch {
	case f.Before != nil:
	case f.After != nil:
		line += " reply lost"
	case f.Twice:
		line += " twice"
	case f.Torn > 0 && op == Create:
		line += " torn"
		s.limit, s.crashed = s.changes, true
	}
	s.log = append(s.log, line)
	return f, nil
}

func (s *Store) match(op Op, name string) (hit Fault) {
	found := false
	for _, a := range s.faults {
		if !a.Op.has(op) || !strings.HasPrefix(name, a.Prefix) {
			continue
		}
		a.seen++
		if !found && a.hits(a.seen) {
			hit, found = a.Fault, true
		}
	}
	return hit
}

func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	f, err := s.begin(ctx, Create, name, fmt.Sprint(len(data)))
	if err != nil {
		return err
	}
	if f.Torn > 0 {
		return errors.Join(ErrCrashed, s.inner.Create(ctx, name, data[:min(int64(len(data)), f.Torn)]))
	}
	if f.Twice {
		ctx = blob.WithNonce(ctx) // it is one request
	}
	return f.change(func() error { return s.inner.Create(ctx, name, data) })
}

// change does what changes the store, as often as the fault says.
func (f *Fault) change(do func() error) error {
	if f.Twice {
		_ = do() // nobody hears of the first answer
	}
	if err := do(); err != nil {
		return err
	}
	return f.After
}

func (s *Store) Read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	detail := fmt.Sprintf("%d+", off)
	if length >= 0 {
		detail += fmt.Sprint(length)
	}
	f, err := s.begin(ctx, Read, name, detail)
	if err != nil {
		return nil, err
	}
	data, err := s.inner.Read(ctx, name, off, length)
	if err != nil {
		return nil, err
	}
	if f.After != nil {
		return nil, f.After
	}
	if bit := f.Flip - 1; bit >= 0 && bit/8 < int64(len(data)) {
		data[bit/8] ^= 1 << (bit % 8)
	}
	if f.Cut > 0 {
		data = data[:max(0, int64(len(data))-f.Cut)]
	}
	return data, nil
}

func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	f, err := s.begin(ctx, Stat, name, "")
	if err != nil {
		return blob.Info{}, err
	}
	info, err := s.inner.Stat(ctx, name)
	if err != nil {
		return blob.Info{}, err
	}
	return info, f.After
}

func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	f, err := s.begin(ctx, List, prefix, "")
	if err != nil {
		return err
	}
	if err := s.inner.List(ctx, prefix, fn); err != nil {
		return err
	}
	return f.After
}

func (s *Store) Delete(ctx context.Context, name string) error {
	f, err := s.begin(ctx, Delete, name, "")
	if err != nil {
		return err
	}
	return f.change(func() error { return s.inner.Delete(ctx, name) })
}

func (s *Store) Locking(ctx context.Context) (blob.Locking, error) {
	return blob.LockingOf(ctx, s.inner)
}

func (s *Store) Retain(ctx context.Context, name string, l blob.Lock) error {
	f, err := s.begin(ctx, Retain, name, "")
	if err != nil {
		return err
	}
	return f.change(func() error { return blob.Retain(ctx, s.inner, name, l) })
}

func (s *Store) Retention(ctx context.Context, name string) (blob.Lock, error) {
	return blob.RetentionOf(ctx, s.inner, name)
}

func (s *Store) String() string { return s.inner.String() }
