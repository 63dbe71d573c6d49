package probe

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/dir"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/blob/retry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(t *testing.T, s blob.Store, o Options) Report {
	t.Helper()
	r, err := Run(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// lacking are the names of what is missing.
func lacking(r Report) []string {
	var names []string
	for _, f := range r.Findings {
		if f.Verdict == Missing {
			names = append(names, f.Name)
			if f.Consequence == "" || f.Detail == "" {
				names = append(names, f.Name+" is not explained")
			}
		}
	}
	return names
}

func TestGoodStores(t *testing.T) {
	folder, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	for what, s := range map[string]blob.Store{
		"memory": mem.New(), "folder": folder, "patient": retry.New(mem.New(), retry.Options{}),
	} {
		t.Run(what, func(t *testing.T) {
			r := run(t, s, Options{})
			got := slices.DeleteFunc(lacking(r), func(n string) bool { return n == "list order" }) // folders have another
			if !slices.Equal(got, []string{"versions", "object lock"}) {
				t.Errorf("missing: %q", got)
			}
			if r.Err() != nil || r.Warnings() != nil || r.Left != nil || r.Store != s.String() {
				t.Errorf("%v, %+v, left %q", r.Err(), r.Warnings(), r.Left)
			}
			if err := s.List(t.Context(), "", func(i blob.Info) error { return errors.New("left: " + i.Name) }); err != nil {
				t.Error(err)
			}
		})
	}
}

// wrong is a store with faults.
type wrong struct {
	*mem.Store
	create func(ctx context.Context, name string, data []byte) error
	read   func(ctx context.Context, name string, off, length int64) ([]byte, error)
	list   func(ctx context.Context, prefix string, fn func(blob.Info) error) error
	stat   func(ctx context.Context, name string) (blob.Info, error)
	remove func(ctx context.Context, name string) error
}

func (w *wrong) Create(ctx context.Context, name string, data []byte) error {
	if w.create != nil {
		return w.create(ctx, name, data)
	}
	return w.Store.Create(ctx, name, data)
}

func (w *wrong) Read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if w.read != nil {
		return w.read(ctx, name, off, length)
	}
	return w.Store.Read(ctx, name, off, length)
}

func (w *wrong) Stat(ctx context.Context, name string) (blob.Info, error) {
	if w.stat != nil {
		return w.stat(ctx, name)
	}
	return w.Store.Stat(ctx, name)
}

func (w *wrong) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	if w.list != nil {
		return w.list(ctx, prefix, fn)
	}
	return w.Store.List(ctx, prefix, fn)
}

func (w *wrong) Delete(ctx context.Context, name string) error {
	if w.remove != nil {
		return w.remove(ctx, name)
	}
	return w.Store.Delete(ctx, name)
}

// overwrites is a store without conditional put.
func overwrites() blob.Store {
	w := &wrong{Store: mem.New()}
	w.create = func(ctx context.Context, name string, data []byte) error {
		return errors.Join(w.Store.Delete(ctx, name), w.Store.Create(ctx, name, data))
	}
	return w
}

// checksThenActs refuses a taken name, but two writers at once both find it free.
func checksThenActs() blob.Store {
	w := &wrong{Store: mem.New()}
	var mu sync.Mutex
	entered := map[string]chan struct{}{}
	w.create = func(ctx context.Context, name string, data []byte) error {
		if _, err := w.Store.Stat(ctx, name); err == nil {
			return blob.ErrExists
		}
		if strings.Contains(name, "-race-") {
			mu.Lock()
			other, second := entered[name]
			if !second {
				other = make(chan struct{})
				entered[name] = other
			} else {
				close(other)
			}
			mu.Unlock()
			<-other // until both are in
		}
		w.Store.Damage(name, func([]byte) []byte { return data })
		return nil
	}
	return w
}

// lagging lists what was there one creation ago.
func lagging() blob.Store {
	w := &wrong{Store: mem.New()}
	var behind atomic.Pointer[mem.Store]
	behind.Store(w.Store.Clone())
	w.create = func(ctx context.Context, name string, data []byte) error {
		behind.Store(w.Store.Clone())
		return w.Store.Create(ctx, name, data)
	}
	w.list = func(ctx context.Context, prefix string, fn func(blob.Info) error) error {
		return behind.Load().List(ctx, prefix, fn)
	}
	return w
}

// slowToAppear does not have an object at the first read.
func slowToAppear() blob.Store {
	w := &wrong{Store: mem.New()}
	var asked sync.Map
	w.read = func(ctx context.Context, name string, off, length int64) ([]byte, error) {
		if _, again := asked.LoadOrStore(name, true); !again {
			return nil, blob.ErrNotFound
		}
		return w.Store.Read(ctx, name, off, length)
	}
	return w
}

func noRanges() blob.Store {
	w := &wrong{Store: mem.New()}
	w.read = func(ctx context.Context, name string, _, _ int64) ([]byte, error) {
		return w.Store.Read(ctx, name, 0, -1)
	}
	return w
}

func keepsAll() blob.Store {
	w := &wrong{Store: mem.New()}
	w.remove = func(context.Context, string) error { return nil }
	return w
}

// paged is a store whose pages lose the object at each seam, or that has no checks.
type paged struct{ *mem.Store }

func (p paged) ListPages(ctx context.Context, prefix string, page int, fn func(blob.Info) error) error {
	n := 0
	return p.List(ctx, prefix, func(i blob.Info) error {
		if n++; n%page == 0 {
			return nil
		}
		return fn(i)
	})
}

func (p paged) RefusesDamage(context.Context, string) (bool, error) { return false, nil }

func TestFaultyStores(t *testing.T) {
	late := mem.NewAt(func() time.Time { return time.Now().Add(-time.Hour) })
	always := []string{"versions", "object lock"}
	for what, c := range map[string]struct {
		store blob.Store
		want  []string
		fatal bool
	}{
		"no conditional put": {overwrites(), []string{"conditional put", "race for a name"}, true},
		"check, then act":    {checksThenActs(), []string{"race for a name"}, true},
		"lagging lists":      {lagging(), []string{"list after write"}, true},
		"lagging reads":      {slowToAppear(), []string{"read after write", "conditional put", "race for a name", "range read"}, true},
		"no ranges":          {noRanges(), []string{"range read"}, true},
		"bad pages":          {paged{mem.New()}, []string{"list paging", "checksum"}, true},
		"keeps what is gone": {keepsAll(), []string{"delete"}, false},
		"an hour late":       {late, []string{"clock"}, false},
	} {
		t.Run(what, func(t *testing.T) {
			r := run(t, c.store, Options{})
			got := slices.DeleteFunc(lacking(r), func(n string) bool { return slices.Contains(always, n) })
			for _, w := range c.want {
				if f, ok := r.Finding(w); !ok || f.Verdict == OK {
					t.Errorf("%s is not found missing: %+v", w, f)
				}
			}
			for _, g := range got {
				if !slices.Contains(c.want, g) && !(what == "lagging lists" && strings.HasPrefix(g, "list")) && !(what == "lagging lists" && g == "delete") {
					f, _ := r.Finding(g)
					t.Errorf("%s is missing too: %+v", g, f)
				}
			}
			if c.fatal != errors.Is(r.Err(), ErrUnfit) || (!c.fatal && len(r.Warnings()) != len(c.want)) {
				t.Errorf("%v, %+v", r.Err(), r.Warnings())
			}
		})
	}
}

func TestOffsetOfTheClock(t *testing.T) {
	s := mem.NewAt(func() time.Time { return time.Now().Add(20 * time.Minute) })
	r := run(t, s, Options{})
	if d := r.Clock - 20*time.Minute; d.Abs() > r.ClockError || len(r.Warnings()) != 1 {
		t.Errorf("%v, wrong by %v at most, %+v", r.Clock, r.ClockError, r.Warnings())
	}
}

// A key without a right leaves questions open; it makes no store unfit.
func TestDeniedIsUnknown(t *testing.T) {
	w := &wrong{Store: mem.New()}
	w.create = func(context.Context, string, []byte) error { return blob.ErrDenied }
	r := run(t, w, Options{})
	f, _ := r.Finding("conditional put")
	if r.Err() != nil || r.Warnings() != nil || f.Verdict != Unknown || r.Left != nil {
		t.Errorf("%v, %+v", r.Err(), r)
	}
}

func TestUnreachableIsAnError(t *testing.T) {
	w := &wrong{Store: mem.New()}
	w.create = func(context.Context, string, []byte) error { return blob.ErrUnreachable }
	if _, err := Run(t.Context(), w, Options{}); !errors.Is(err, blob.ErrUnreachable) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, mem.New(), Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLocks(t *testing.T) {
	for _, mode := range []blob.LockMode{blob.Governance, blob.Compliance} {
		synctest.Test(t, func(t *testing.T) {
			s := mem.NewLocking(time.Now, blob.Locking{Enabled: true, Versioned: true})
			r := run(t, retry.New(s, retry.Options{}), Options{Lock: mode})
			f, _ := r.Finding("object lock")
			if got := lacking(r); got != nil || !strings.Contains(f.Detail, "is extended, and ends") || r.Left != nil {
				t.Errorf("%q, %+v, left %q", got, f, r.Left)
			}
		})
	}
}

// forgetful says that it locks, and deletes all the same.
type forgetful struct{ *mem.Store }

func (f forgetful) Delete(ctx context.Context, name string) error {
	f.Damage(name, func([]byte) []byte { return nil })
	return nil
}

func TestMissingLocks(t *testing.T) {
	r := run(t, mem.New(), Options{Lock: blob.Governance})
	if err := r.Err(); !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), "object_lock cannot be kept") {
		t.Error(err)
	}
	r = run(t, forgetful{mem.NewLocking(time.Now, blob.Locking{Enabled: true})}, Options{Lock: blob.Compliance})
	if err := r.Err(); !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), "was deleted") {
		t.Error(err)
	}
}

func TestDefaultRetention(t *testing.T) {
	day := 24 * time.Hour
	s := mem.NewLocking(time.Now, blob.Locking{Enabled: true, Versioned: true, Mode: blob.Compliance, For: 90 * day})
	r := run(t, s, Options{Period: 30 * day})
	f, _ := r.Finding("default retention")
	if f.Verdict != Missing || !strings.Contains(f.Detail, "90 days (compliance), longer than object_lock's 30") {
		t.Errorf("%+v", f)
	}
	if f, _ := r.Finding("delete"); f.Verdict != Missing || r.Err() != nil || len(r.Left) == 0 {
		t.Errorf("%+v, %v, left %d", f, r.Err(), len(r.Left))
	}
}
