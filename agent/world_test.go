package agent_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/plugins/writers/filesystem"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/snapshottest"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/repo"
)

const vmName = "lab/web"

// world is an agent with its surroundings in memory: a hypervisor with one VM of
// two disks, a store, and a journal.
type world struct {
	t       *testing.T
	fake    *snapshottest.Fake
	objects *mem.Store
	store   *faults.Store
	repo    *repo.Repository
	journal *journal.Journal
	runner  *agent.Runner
	board   *agent.Board // of the daemon that ran last
	disks   map[string][]byte

	mu     sync.Mutex
	events []agent.Event
	hear   agent.Observer // hears every event after it was noted
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldIn(t, mem.New())
}

func newWorldIn(t *testing.T, objects *mem.Store) *world {
	t.Helper()
	w := &world{t: t, objects: objects, disks: map[string][]byte{"root": content(1, 9<<20), "data": content(2, 5<<20)}}
	w.fake = snapshottest.NewFake(snapshottest.FakeVM{
		Name: "web", Hardware: snapshot.Hardware{Hypervisor: "fake", Memory: 1 << 30},
		Disks: []snapshottest.FakeDisk{{Name: "root", Content: w.disks["root"]}, {Name: "data", Content: w.disks["data"]}},
		Files: map[snapshot.FileRole][]byte{snapshot.RoleNVRAM: []byte("nvram of web")},
	})
	w.store = faults.New(w.objects)
	_, err := repo.Init(t.Context(), w.store, repo.InitOptions{Passphrase: []byte("x"), Cost: repo.Cost{Time: 1, Memory: 8 << 10, Threads: 1}})
	must(t, err)
	w.repo = w.open(w.store)
	w.journal, err = journal.Open(t.TempDir())
	must(t, err)
	w.runner = &agent.Runner{
		Journal: w.journal, Log: slog.New(slog.DiscardHandler), Version: "test", Now: time.Now, Observe: w.note,
	}
	return w
}

// content is half random bytes, half zeros.
func content(seed uint64, size int) []byte {
	p := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	if _, err := io.ReadFull(r, p[:size/2]); err != nil {
		panic(err)
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) open(store blob.Store) *repo.Repository {
	w.t.Helper()
	r, err := repo.Open(w.t.Context(), store, repo.OpenOptions{Passphrase: []byte("x"), Cache: w.t.TempDir()})
	must(w.t, err)
	w.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return r
}

func (w *world) note(e agent.Event) {
	w.mu.Lock()
	w.events = append(w.events, e)
	hear := w.hear
	w.mu.Unlock()
	if hear != nil {
		hear(e)
	}
}

// steps are the events so far without repeated progress.
func (w *world) steps() []agent.Step {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []agent.Step
	for _, e := range w.events {
		out = append(out, e.Step)
	}
	return slices.Compact(out)
}

func (w *world) job() agent.Job {
	return agent.Job{
		Name: vmName, VM: "web", Host: w.fake.Host(), Repository: w.repo,
		Policy: quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelFilesystem, quiesce.LevelCrash}, Floor: quiesce.LevelCrash},
		Writers: func(_ context.Context, g snapshot.Guest) ([]quiesce.Writer, func() error, error) {
			return []quiesce.Writer{filesystem.New(filesystem.Settings{}, g)}, func() error { return nil }, nil
		},
	}
}

func (w *world) resolve(string) (snapshot.Host, string, error) { return w.fake.Host(), "web", nil }

// tidy fails the test unless guest, chain and journal are as if nothing had run.
func (w *world) tidy() {
	w.t.Helper()
	if w.fake.Frozen("web") {
		w.t.Error("the guest is frozen")
	}
	if files := w.fake.Leftovers(); len(files) > 0 {
		w.t.Errorf("deltas left behind: %v", files)
	}
	pending, err := w.journal.Pending()
	if err != nil || len(pending) > 0 {
		w.t.Errorf("journal: %d entries, %v", len(pending), err)
	}
}

// restored reads a disk of a point back.
func (w *world) restored(p repo.Point, disk string) []byte {
	w.t.Helper()
	i := slices.IndexFunc(p.Disks, func(d repo.Disk) bool { return d.Name == disk })
	if i < 0 {
		w.t.Fatalf("point %s has no disk %s", p.ID, disk)
	}
	data, err := transport.RestoreBytes(w.t.Context(), w.repo, p.Disks[i].Root, 1<<30)
	must(w.t, err)
	return data
}

func (w *world) wantRestored(p repo.Point) {
	w.t.Helper()
	for name, want := range w.disks {
		if got := w.restored(p, name); !bytes.Equal(got, want) {
			w.t.Errorf("disk %s of %s differs from what was frozen", name, p.ID)
		}
	}
}
