package probe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

// Prefix is where a probe writes.
const Prefix = "probe/"

const (
	rounds      = 4
	cleanUpTime = 30 * time.Second
	// lockTime is how long the probe's own locked objects stay at least.
	lockTime = 4 * time.Second
	// lockPatience is how much later than promised a lock may end.
	lockPatience = 20 * time.Second
)

// Options say what is asked beside what every repository needs.
type Options struct {
	// Lock is a mode of object lock that the repository is to use. It makes
	// locks essential, and the probe wait some seconds for the end of one.
	Lock blob.LockMode
	// Period is how long the repository is to lock its objects.
	Period time.Duration
	// Now is this host's clock; nil: time.Now.
	Now func() time.Time
}

// Run asks a store. The error is that of a store that cannot be asked at all, such as
// blob.ErrUnreachable; a store that is merely unfit is for Report.Err to tell.
func Run(ctx context.Context, store blob.Store, o Options) (report Report, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &prober{store: naked(store), o: o, prefix: Prefix + strings.ToLower(rand.Text()) + "-"}
	p.report.Store = store.String()
	defer func() {
		p.report.Left = p.cleanUp(ctx)
		report = p.report
	}()
	for _, q := range questions(o) {
		if err := p.ask(ctx, q); err != nil {
			return p.report, fmt.Errorf("probe %s: %s: %w", store, q.name, err)
		}
	}
	return p.report, nil
}

// naked is the store under its decorators.
func naked(s blob.Store) blob.Store {
	for {
		w, ok := s.(interface{ Unwrap() blob.Store })
		if !ok {
			return s
		}
		s = w.Unwrap()
	}
}

// prober is a probe under way.
type prober struct {
	store  blob.Store
	o      Options
	prefix string
	report Report

	mu    sync.Mutex
	names []string // that may be there
}

// question is one thing to find out. ask tells what it saw; an error of errMissing
// says that the store lacks it.
type question struct {
	name        string
	weight      Weight
	consequence string
	ask         func(p *prober, ctx context.Context) (detail string, err error)
}

var errMissing = errors.New("missing")

func missing(format string, args ...any) (string, error) {
	return fmt.Sprintf(format, args...), errMissing
}

// ask puts one question and takes down the answer. Its error ends the probe.
func (p *prober) ask(ctx context.Context, q question) error {
	f := Finding{Name: q.name, Verdict: OK, Weight: q.weight}
	detail, err := q.ask(p, ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
	case errors.Is(err, errMissing):
		f.Verdict, f.Consequence = Missing, q.consequence
	case errors.Is(err, blob.ErrDenied):
		f.Verdict, detail = Unknown, "the store's key lacks the right to find out"
	case errors.Is(err, blob.ErrNotFound):
		f.Verdict, f.Consequence, detail = Missing, q.consequence, "what was written just now is not there"
	case blob.Permanent(err), errors.Is(err, blob.ErrUnreachable):
		return err
	default:
		f.Verdict, f.Consequence, detail = Missing, q.consequence, err.Error()
	}
	f.Detail = detail
	p.report.Findings = append(p.report.Findings, f)
	return nil
}

// name is a new name under the probe's own prefix. There are no folders below it, which
// would stay in a store that has such.
func (p *prober) name(parts ...any) string {
	name := p.prefix + fmt.Sprint(parts...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.names, name) {
		p.names = append(p.names, name)
	}
	return name
}

// listed are the names under a prefix, as they come.
func (p *prober) listed(ctx context.Context, prefix string) (names []string, err error) {
	err = p.store.List(ctx, prefix, collect(&names))
	return names, err
}

func collect(names *[]string) func(blob.Info) error {
	return func(i blob.Info) error {
		*names = append(*names, i.Name)
		return nil
	}
}

// cleanUp deletes what the probe left, and names what stays.
func (p *prober) cleanUp(ctx context.Context) (left []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	for _, name := range p.names {
		if err := p.store.Delete(ctx, name); err == nil {
			continue
		}
		// One that was never created cannot be deleted by a key without the right.
		if _, err := p.store.Stat(ctx, name); err == nil {
			left = append(left, name)
		}
	}
	return left
}
