package repo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// leaseTerm is how long a lease lasts without being renewed, by the store's time.
const leaseTerm = 10 * time.Minute

// leaseDoc is the content of a lease's objects.
type leaseDoc struct {
	Host string `json:"host"` // label of the key, for people
}

// lease keeps maintainers from doing the same work twice. It is a courtesy: two that
// work at the same time do no harm. leases/<what>/<n> is taken by creating it, renewed by
// <n>.<k>, given back by <n>.end; who takes it looks at those that were there before.
type lease struct {
	r      *Repository
	prefix string
	n      int
	// taken is the store's time of the taking, at the host's.
	taken, at time.Time
	// ignored are names under which something lies that is no lease, as far as that was seen.
	ignored []string

	stop chan struct{}
	wg   sync.WaitGroup
}

// lease takes a lease: ErrBusy when another has it. The ctx that comes back ends when it is
// lost.
func (r *Repository) lease(ctx context.Context, what string) (context.Context, *lease, error) {
	l := &lease{r: r, prefix: leasePrefix + what + "/", stop: make(chan struct{})}
	if err := l.take(ctx); err != nil {
		return nil, nil, fmt.Errorf("take lease: %w", err)
	}
	ctx, lost := context.WithCancelCause(ctx)
	l.wg.Go(func() {
		defer lost(nil)
		l.keep(ctx, lost)
	})
	return ctx, l, nil
}

// now is the store's time.
func (l *lease) now() time.Time { return l.taken.Add(l.r.now().Sub(l.at)) }

func (l *lease) object(n int, suffix string) string {
	return l.prefix + strconv.Itoa(n) + suffix
}

// take takes the number after that of the last lease, unless another is alive.
func (l *lease) take(ctx context.Context) error {
	others, err := l.others(ctx)
	if err != nil {
		return err
	}
	if l.n, err = others.next(ctx); err != nil {
		return err
	}
	l.at = l.r.now()
	if err := l.create(ctx, ""); err != nil {
		if errors.Is(err, blob.ErrExists) {
			return ErrBusy
		}
		return err
	}
	own, err := l.r.store.Stat(ctx, l.object(l.n, ""))
	if err != nil {
		return err
	}
	l.taken = own.Created
	busy, err := others.busy(ctx, l.taken)
	if err != nil {
		return err
	}
	if busy {
		return errors.Join(ErrBusy, l.create(ctx, ".end"))
	}
	l.ignored = others.ignored
	return others.clear(ctx)
}

func (l *lease) create(ctx context.Context, suffix string) error {
	return l.r.createJSON(ctx, l.r.store, wire.Lease, l.object(l.n, suffix), leaseDoc{l.r.Label()})
}

// keep renews the lease until it is given back. When that does not succeed in time the
// lease is lost.
func (l *lease) keep(ctx context.Context, lost context.CancelCauseFunc) {
	tick := time.NewTicker(leaseTerm / 5)
	defer tick.Stop()
	renewed := l.r.now()
	for k := 1; ; k++ {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		if l.r.now().Sub(renewed) > leaseTerm*4/5 {
			lost(errLeaseLost)
			return
		}
		if err := l.create(ctx, "."+strconv.Itoa(k)); err == nil {
			renewed = l.r.now()
		}
	}
}

var errLeaseLost = errors.New("the lease for maintenance was not renewed in time")

// release gives the lease back. One that is not given back ends by itself.
func (l *lease) release(ctx context.Context) {
	close(l.stop)
	l.wg.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retireTime)
	defer cancel()
	_ = l.create(ctx, ".end")
}
