package repo

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Bounds of what is believed under leases/. Whoever can write there, with no key of the
// repository, could else use up the numbers, or keep maintenance reading.
const (
	maxLease      = 1 << 30 // of numbers, and of renewals: one a minute for 2,000 years
	maxLeaseReads = 256     // objects that one taking reads; the rest is taken for nobody's
	maxIgnored    = 16      // names that are told of
)

// leases are those that others took, as the store shows them. What nobody signed who may is
// none: it keeps nobody from anything, and is told of.
type leases struct {
	l       *lease
	numbers map[int]map[string]blob.Info // by number and suffix
	good    map[string]bool              // objects that were read: whether they are a lease's
	ignored []string
}

// leaseNumber reads the number in a lease's name, and what follows its dot: nothing, "end" or
// the number of a renewal.
func leaseNumber(object string) (n int, suffix string, ok bool) {
	_, name, _ := strings.Cut(strings.TrimPrefix(object, leasePrefix), "/")
	number, suffix, dotted := strings.Cut(name, ".")
	n, ok = plainNumber(number)
	if ok && dotted && suffix != leaseEnd {
		_, ok = plainNumber(suffix)
	}
	return n, suffix, ok
}

const leaseEnd = "end"

func plainNumber(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && 0 < n && n <= maxLease && strconv.Itoa(n) == s
}

func (l *lease) others(ctx context.Context) (*leases, error) {
	infos, err := list(ctx, l.r.store, l.prefix)
	if err != nil {
		return nil, err
	}
	o := &leases{l: l, numbers: map[int]map[string]blob.Info{}, good: map[string]bool{}}
	for _, i := range infos {
		n, suffix, ok := leaseNumber(i.Name)
		if !ok {
			o.ignore(i.Name)
			continue
		}
		if o.numbers[n] == nil {
			o.numbers[n] = map[string]blob.Info{}
		}
		o.numbers[n][suffix] = i
	}
	return o, nil
}

func (o *leases) ignore(object string) {
	if len(o.ignored) < maxIgnored {
		o.ignored = append(o.ignored, object)
	}
}

// signed tells whether an object is of a lease that somebody took who may.
func (o *leases) signed(ctx context.Context, i blob.Info) (bool, error) {
	if good, read := o.good[i.Name]; read || len(o.good) == maxLeaseReads {
		return good, nil
	}
	var doc leaseDoc
	err := o.l.r.readJSON(ctx, o.l.r.store, wire.Lease, i, maxNote, &doc)
	switch {
	case err == nil, errors.Is(err, blob.ErrNotFound): // cleared away meanwhile
	case passable(err):
		o.ignore(i.Name)
	default:
		return false, err
	}
	o.good[i.Name] = err == nil
	return err == nil, nil
}

// next is the number after that of the newest lease of which nothing is there: what lies under
// a name that comes later must not keep the lease from being renewed. After the last number
// comes the first.
func (o *leases) next(ctx context.Context) (int, error) {
	n := 0
	for _, top := range slices.Backward(slices.Sorted(maps.Keys(o.numbers))) {
		start, ok := o.numbers[top][""]
		if !ok {
			continue
		}
		ok, err := o.signed(ctx, start)
		if err != nil {
			return 0, err
		}
		if ok {
			n = top
			break
		}
	}
	for n = n%maxLease + 1; o.numbers[n] != nil; n = n%maxLease + 1 {
		continue
	}
	return n, nil
}

// busy tells whether any of them is alive.
func (o *leases) busy(ctx context.Context, now time.Time) (bool, error) {
	for _, n := range slices.Sorted(maps.Keys(o.numbers)) {
		if alive, err := o.alive(ctx, o.numbers[n], now); alive || err != nil {
			return alive, err
		}
	}
	return false, nil
}

// alive tells whether a lease was taken, was renewed within its term, and was not given back. A
// time far ahead of the store's own is none: nobody would outlive it.
func (o *leases) alive(ctx context.Context, objects map[string]blob.Info, now time.Time) (bool, error) {
	start, taken := objects[""]
	fresh := slices.DeleteFunc(slices.Collect(maps.Values(objects)), func(i blob.Info) bool {
		return now.Sub(i.Created).Abs() >= leaseTerm || i.Name == objects[leaseEnd].Name
	})
	if !taken || len(fresh) == 0 {
		return false, nil
	}
	if ok, err := o.signed(ctx, start); !ok || err != nil {
		return false, err
	}
	if end, ok := objects[leaseEnd]; ok {
		if over, err := o.signed(ctx, end); over || err != nil {
			return false, err
		}
	}
	slices.SortFunc(fresh, func(a, b blob.Info) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Name, b.Name))
	})
	for _, i := range fresh {
		if ok, err := o.signed(ctx, i); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// clear removes them: none is alive. Names that no lease has are left to people.
func (o *leases) clear(ctx context.Context) error {
	for _, n := range slices.Sorted(maps.Keys(o.numbers)) {
		objects := o.numbers[n]
		for _, suffix := range slices.Sorted(maps.Keys(objects)) {
			if _, err := remove(ctx, o.l.r.store, objects[suffix].Name); err != nil {
				return err
			}
		}
	}
	return nil
}
