package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// The protocol of sessions, marks and decisions, checked on the real code: an exhaustive
// scheduler runs writers, maintainers and who forgets against one store in memory, a store
// operation at a time, in every order with at most so many preemptions (Musuvathi and
// Qadeer, "Iterative context bounding", PLDI 2007). An actor that is preempted and goes on
// when all others are done is one that was paused; before it goes on, it is one that
// crashed. The clock jumps beyond the grace between the two prunes of a maintainer.
//
// Reduction: no preemption comes before a Read. What is read is immutable, so it can only
// meet the object's deletion, and fails then.
//
// LULL_MODEL=N allows N preemptions more than the bounds below, for a long run.
//
// After each end of an actor every point that was committed must restore. That this finds
// what there is to find, TestProtocolIsNeeded shows: it breaks the protocol in several ways.

// actor is one process: its store waits for the scheduler before each operation.
type actor struct {
	name  string
	store *gate
	// view changes what the actor sees of the store and does to it; nil: nothing.
	view func(blob.Store) blob.Store
	run  func(ctx context.Context, store blob.Store) error

	done  chan struct{}
	err   error
	ended bool
}

// gate is an actor's store.
type gate struct {
	*mem.Store
	ask, grant chan struct{}
	log        func(string)
}

func (g *gate) wait(op, name string) {
	g.ask <- struct{}{}
	<-g.grant
	g.log(op + " " + name)
}

func (g *gate) Create(ctx context.Context, name string, data []byte) error {
	g.wait("create", name)
	return g.Store.Create(ctx, name, data)
}

func (g *gate) Stat(ctx context.Context, name string) (blob.Info, error) {
	g.wait("stat", name)
	return g.Store.Stat(ctx, name)
}

func (g *gate) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	g.wait("list", prefix)
	return g.Store.List(ctx, prefix, fn)
}

func (g *gate) Delete(ctx context.Context, name string) error {
	g.wait("delete", name)
	return g.Store.Delete(ctx, name)
}

// world is what a schedule runs in.
type world struct {
	store *mem.Store
	mu    sync.Mutex
	at    time.Time
	// committed are the points whose commit succeeded, and what is on their disks.
	committed map[string]committed
	log       strings.Builder
}

type committed struct {
	point repo.Point
	disk  []byte
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *world) sleep(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

func (w *world) open(ctx context.Context, store blob.Store) (*repo.Repository, error) {
	return repo.Open(ctx, store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: w.now}))
}

// writer backs a disk up.
func (w *world) writer(vm string, disk []byte) func(context.Context, blob.Store) error {
	return func(ctx context.Context, store blob.Store) error {
		r := store.(*opened).r
		s, err := r.Begin(ctx, vm, w.now())
		if err != nil {
			return err
		}
		defer s.Close()
		var parent *repo.Root
		if p, _ := s.Parent(); len(p.Disks) > 0 {
			parent = &p.Disks[0].Root
		}
		root, err := backup(ctx, s, disk, parent)
		if err != nil {
			return err
		}
		p, err := s.Commit(ctx, repo.Point{VM: vm, Frozen: w.now(), Disks: []repo.Disk{{Root: root}}})
		if err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.committed[p.ID] = committed{p, disk}
		return nil
	}
}

// maintainer prunes twice; more than the grace lies between.
func (w *world) maintainer(away time.Duration) func(context.Context, blob.Store) error {
	return func(ctx context.Context, store blob.Store) error {
		for range 2 {
			w.sleep(2 * time.Hour)
			if _, err := repo.PruneAlone(ctx, store.(*opened).r, repo.PruneOptions{Grace: time.Hour}, w.now(), away); err != nil {
				return err
			}
		}
		return nil
	}
}

// robbed is a maintainer before each of whose prunes somebody gets at the sessions, and whose
// grace is so short that sessions do not ask for the marks again before they commit.
func (w *world) robbed(crime func(context.Context, blob.Store) error) func(context.Context, blob.Store) error {
	return func(ctx context.Context, store blob.Store) error {
		for range 2 {
			if err := crime(ctx, store); err != nil {
				return err
			}
			w.sleep(20 * time.Minute)
			o := repo.PruneOptions{Grace: 10 * time.Minute}
			if _, err := repo.PruneAlone(ctx, store.(*opened).r, o, w.now(), 100*time.Hour); err != nil {
				return err
			}
		}
		return nil
	}
}

// thief has a host's store credentials and a key, and ends the sessions that it sees.
func (w *world) thief(label string) func(context.Context, blob.Store) error {
	return func(ctx context.Context, store blob.Store) error {
		o := repo.OpenOptions{Passphrase: secretOf(label), Label: label, Now: w.now}
		if label == "owner" {
			o.Passphrase = passphrase
		}
		r, err := repo.Open(ctx, w.store, o)
		if err != nil {
			return err
		}
		defer r.Close()
		return repo.EndSessions(ctx, r, store)
	}
}

// eraser has store credentials that may delete announcements, and does so as soon as
// maintenance relies on having seen them.
func (w *world) eraser() func(context.Context, blob.Store) error {
	return func(ctx context.Context, store blob.Store) error {
		if _, err := store.Stat(ctx, "marks/0000000000000001.sessions"); err != nil {
			return nil // not yet
		}
		var names []string
		err := store.List(ctx, "sessions/", func(i blob.Info) error {
			names = append(names, i.Name)
			return nil
		})
		for _, name := range names {
			err = errors.Join(err, store.Delete(ctx, name))
		}
		return err
	}
}

// forgetter forgets the newest point that was there in the beginning.
func (w *world) forgetter(p repo.Point) func(context.Context, blob.Store) error {
	return func(ctx context.Context, store blob.Store) error {
		w.mu.Lock()
		delete(w.committed, p.ID)
		w.mu.Unlock()
		return store.(*opened).r.Forget(ctx, []repo.Point{p})
	}
}

// opened is a store and the repository in it: opened before the schedule begins, so that
// what it knows of the index is old.
type opened struct {
	blob.Store
	r *repo.Repository
}

// schedule runs the actors once. choose picks who makes the next operation among those
// that can.
func (w *world) schedule(t *testing.T, actors []*actor, choose func(can []int) int) error {
	t.Helper()
	for i, a := range actors {
		a.store = &gate{Store: w.store, ask: make(chan struct{}), grant: make(chan struct{}), log: func(string) {}}
		a.done = make(chan struct{})
		free := &free{Store: w.store} // the repository is opened out of turn
		r, err := w.open(t.Context(), free)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var view blob.Store = a.store
		if a.view != nil {
			view = a.view(view)
		}
		free.through(view)
		a.store.log = func(line string) { fmt.Fprintf(&w.log, "%d %s: %s\n", i, a.name, line) }
		go func() {
			defer close(a.done)
			a.err = a.run(context.Background(), &opened{view, r})
		}()
		a.settle() // one after the other: they share a clock
	}
	var broken error
	for {
		var can []int
		for i, a := range actors {
			if !a.ended {
				can = append(can, i)
			}
		}
		if len(can) == 0 {
			return broken
		}
		a := actors[choose(can)]
		a.store.grant <- struct{}{}
		a.settle()
		if a.ended {
			fmt.Fprintf(&w.log, "%s ends: %v\n", a.name, a.err)
			if broken == nil {
				broken = w.restores(t.Context())
			}
		}
	}
}

// settle waits until the actor asks for its next operation or ends.
func (a *actor) settle() {
	select {
	case <-a.store.ask:
	case <-a.done:
		a.ended = true
	}
}

// free is a store that a repository is opened in, and that is another one later.
type free struct {
	blob.Store
}

func (f *free) through(s blob.Store) { f.Store = s }

// explore runs all schedules with at most bound preemptions, until run has seen enough, and
// returns how many.
func explore(bound int, run func(choose func(can []int) int) (enough bool)) int {
	var path []int // choices: place in can
	for runs := 1; ; runs++ {
		var trace []step
		current, left := -1, bound
		enough := run(func(can []int) int {
			options := options(can, current, left)
			n := 0
			if len(trace) < len(path) {
				n = path[len(trace)]
			}
			trace = append(trace, step{n, len(options)})
			if slices.Contains(can, current) && options[n] != current {
				left--
			}
			current = options[n]
			return current
		})
		path = next(trace)
		if path == nil || enough {
			return runs
		}
	}
}

type step struct{ chosen, of int }

// options are who may go on: the one who did first, the others if there is a preemption
// left.
func options(can []int, current, left int) []int {
	if !slices.Contains(can, current) {
		return can
	}
	all := []int{current}
	for _, i := range can {
		if i != current && left > 0 {
			all = append(all, i)
		}
	}
	return all
}

// next is the schedule after one, depth first; nil: there is none.
func next(trace []step) []int {
	for i := len(trace) - 1; i >= 0; i-- {
		if trace[i].chosen+1 < trace[i].of {
			path := make([]int, i+1)
			for j := range i {
				path[j] = trace[j].chosen
			}
			path[i] = trace[i].chosen + 1
			return path
		}
	}
	return nil
}

// protocolBase is a store with a dead pack, whose content the writers meet again, and a
// live point.
type protocolBase struct {
	store     *mem.Store
	live      repo.Point
	old, disk []byte
	at        time.Time
}

func newProtocolBase(t *testing.T) protocolBase {
	t.Helper()
	b := protocolBase{at: clock(), old: image(1, 20*block.PageSize), disk: image(2, 20*block.PageSize)}
	b.store = mem.NewAt(func() time.Time { return b.at })
	initRepo(t, b.store)
	r := openSmall(t, b.store)
	gone := mustCommit(t, r, "lab/web", b.old)
	b.live = mustCommit(t, r, "lab/web", b.disk)
	if err := r.Forget(t.Context(), []repo.Point{gone}); err != nil {
		t.Fatal(err)
	}
	return b
}

// restores proves that every committed point is whole, seen from a new host.
func (w *world) restores(ctx context.Context) error {
	r, err := w.open(ctx, w.store)
	if err != nil {
		return err
	}
	defer r.Close()
	for id, c := range w.committed {
		got, err := restore(ctx, r, c.point.Disks[0].Root)
		if err == nil && !bytes.Equal(got, c.disk) {
			err = errors.New("another content")
		}
		if err == nil && !slices.ContainsFunc(w.store.Names(), func(name string) bool {
			return strings.HasPrefix(name, "points/") && strings.HasSuffix(name, strings.ToLower(id))
		}) {
			err = errors.New("no manifest")
		}
		if err != nil {
			return fmt.Errorf("point %s does not restore: %w", id, err)
		}
	}
	return nil
}

func pointName(t *testing.T, store *mem.Store, id string) string {
	t.Helper()
	for _, name := range store.Names() {
		if strings.HasPrefix(name, "points/") && strings.HasSuffix(name, strings.ToLower(id)) {
			return name
		}
	}
	return "points/none"
}

func TestProtocol(t *testing.T) {
	base := newProtocolBase(t)
	addKey(t, base.store, "thief", repo.RoleBackup)
	mixed := append(bytes.Clone(base.disk), base.old...)
	for _, test := range []struct {
		name   string
		bound  int
		actors func(w *world) []*actor
	}{
		{"writer and maintainer", 1, func(w *world) []*actor {
			return []*actor{
				{name: "writer", run: w.writer("lab/web", mixed)},
				{name: "maintainer", run: w.maintainer(100 * time.Hour)},
			}
		}},
		{"writer that is given up", 1, func(w *world) []*actor {
			return []*actor{
				{name: "writer", run: w.writer("lab/web", mixed)},
				{name: "maintainer", run: w.maintainer(time.Hour)},
			}
		}},
		{"sessions ended by a stranger", 1, func(w *world) []*actor {
			return []*actor{
				{name: "writer", run: w.writer("lab/web", mixed)},
				{name: "robbed", run: w.robbed(w.thief("thief"))},
			}
		}},
		{"announcements that vanish", 1, func(w *world) []*actor {
			return []*actor{
				{name: "writer", run: w.writer("lab/web", mixed)},
				{name: "robbed", run: w.robbed(w.eraser())},
			}
		}},
		{"writers and maintainers", 0, func(w *world) []*actor {
			return []*actor{
				{name: "web", run: w.writer("lab/web", mixed)},
				{name: "db", run: w.writer("lab/db", base.old)},
				{name: "maintainer", run: w.maintainer(100 * time.Hour)},
				{name: "other", run: w.maintainer(3 * time.Hour)},
			}
		}},
		{"forgetting the parent", 0, func(w *world) []*actor {
			return []*actor{
				{name: "writer", run: w.writer("lab/web", mixed)},
				{name: "forgetter", run: w.forgetter(base.live)},
				{name: "maintainer", run: w.maintainer(100 * time.Hour)},
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var commits, fenced int
			bound := test.bound + deeper()
			n := explore(bound, func(choose func([]int) int) bool {
				w := base.world()
				actors := test.actors(w)
				if err := w.schedule(t, actors, choose); err != nil {
					t.Fatalf("%v\n%s", err, w.log.String())
				}
				for _, a := range actors {
					if errors.Is(a.err, repo.ErrFenced) {
						fenced++
					} else if a.err != nil && !errors.Is(a.err, repo.ErrCorrupt) && !errors.Is(a.err, blob.ErrNotFound) {
						t.Fatalf("%s: %v\n%s", a.name, a.err, w.log.String())
					}
				}
				commits += len(w.committed) - 1
				if err := w.afterwards(t.Context(), base.old); err != nil {
					t.Fatalf("%v\n%s", err, w.log.String())
				}
				return false
			})
			t.Logf("%d schedules with at most %d preemptions; %d commits, %d sessions given up", n, bound, commits, fenced)
		})
	}
}

// deeper is how many preemptions more than usual are allowed.
func deeper() int {
	n, err := strconv.Atoi(os.Getenv("LULL_MODEL"))
	if err != nil {
		return 0
	}
	return n
}

// world is a copy of the base to run one schedule in.
func (b *protocolBase) world() *world {
	w := &world{at: b.at.Add(100 * time.Hour), committed: map[string]committed{b.live.ID: {b.live, b.disk}}}
	w.store = b.store.CloneAt(w.now)
	return w
}

// afterwards is a new host that backs up what was dead once, and prunes: what lies about
// from before must not lead it astray.
func (w *world) afterwards(ctx context.Context, disk []byte) error {
	r, err := w.open(ctx, w.store)
	if err != nil {
		return err
	}
	defer r.Close()
	w.sleep(time.Hour)
	if err := w.writer("lab/late", disk)(ctx, &opened{w.store, r}); err != nil {
		return err
	}
	if err := w.maintainer(time.Hour)(ctx, &opened{w.store, r}); err != nil {
		return err
	}
	if err := w.restores(ctx); err != nil {
		return err
	}
	report, err := r.Check(ctx, repo.CheckOptions{ReadAll: true})
	if err == nil && len(report.Problems) > 0 {
		err = fmt.Errorf("check: %+v", report.Problems)
	}
	return err
}
