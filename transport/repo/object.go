package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// objectError is what is wrong with one object: ErrCorrupt or ErrVersion.
type objectError struct {
	kind   error
	object string
	err    error
}

func (e *objectError) Error() string   { return fmt.Sprintf("%v: %s: %v", e.kind, e.object, e.err) }
func (e *objectError) Unwrap() []error { return []error{e.kind, e.err} }

// Hint is the next step for the administrator.
func (e *objectError) Hint() string {
	id, point := pointID(e.object)
	switch {
	case e.kind == ErrRole:
		return "use another key, see lull key list"
	case e.kind == ErrVersion:
		return "update lull on this host"
	case errors.Is(e.err, ErrForged) && point:
		return "find out who can write to the store, see docs/threat-model.md; lull forget --damaged " + id + " gives the point up"
	case errors.Is(e.err, ErrForged):
		return "find out who can write to the store, see docs/threat-model.md"
	case errors.Is(e.err, ErrOmitted):
		return "find out who can delete from the store, see docs/threat-model.md"
	case strings.HasPrefix(e.object, indexPrefix):
		return "lull check --repair makes the index again from the packs; lull check says what is lost"
	case strings.HasPrefix(e.object, markPrefix):
		return "lull check --repair makes a new decision in its place"
	case point:
		return "get it back from a copy of the store, or give it up with lull forget --damaged " + id
	}
	return "run lull check --all to see what else is damaged"
}

// objectErr says what an error means that an object was read with. An object that
// another one promises and that is missing or short is damaged.
func objectErr(object string, err error) error {
	var known *objectError
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, ErrRole):
		return &objectError{ErrRole, object, err}
	case errors.Is(err, wire.ErrNewer):
		return &objectError{ErrVersion, object, err}
	case errors.Is(err, wire.ErrDamaged), errors.Is(err, wire.ErrForged), errors.Is(err, ErrOmitted),
		errors.Is(err, blob.ErrNotFound), errors.Is(err, blob.ErrRange):
		return &objectError{ErrCorrupt, object, err}
	}
	return err // the store's, which says what it did to which object
}

// readObject reads a whole object of at most limit bytes.
func readObject(ctx context.Context, store blob.Store, object string, limit int64) ([]byte, error) {
	info, err := store.Stat(ctx, object)
	if err != nil {
		return nil, err
	}
	return readSized(ctx, store, info, limit)
}

// readSized reads a whole object whose size the store has told.
func readSized(ctx context.Context, store blob.Store, info blob.Info, limit int64) ([]byte, error) {
	if info.Size < 0 || info.Size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d belong here", wire.ErrDamaged, info.Size, limit)
	}
	return store.Read(ctx, info.Name, 0, info.Size)
}

// readNamed reads a whole object that is named by its hash.
func readNamed(ctx context.Context, store blob.Store, info blob.Info, limit int64) ([]byte, error) {
	b, err := readSized(ctx, store, info, limit)
	if err != nil {
		return nil, err
	}
	if sum, ok := sumOf(info.Name); !ok || blake3.Sum256(b) != sum {
		return nil, fmt.Errorf("%w: content does not match the name", wire.ErrDamaged)
	}
	return b, nil
}

// Bounds of a listing. Packs and index objects are the many: 16 million packs are some 300 TB.
// A store that shows as many as it can makes a host hold below 4 GiB for those, and below
// 1 GiB for any other kind: 4 million points are 10,000 VMs backed up nightly for a year.
const (
	maxListed     = 1 << 22
	maxListedMany = 1 << 24
	maxName       = 128  // bytes; lull makes none longer than 80
	maxForeign    = 1000 // names that lull never makes; what is beyond is passed over
	maxPassed     = 64   // times a bound: after that many names any listing ends
)

// errListed: no repository has that many objects of a kind.
var errListed error = listedError{}

type listedError struct{}

func (listedError) Error() string { return "more objects than any repository has" }

// Hint is the next step for the administrator.
func (listedError) Hint() string {
	return "find out who writes to the store, see docs/threat-model.md; take the credential away, and delete what it has put there; an honest repository as large as that is to be divided"
}

// list collects the objects under a prefix. Names that lull never makes do not count, and
// only some of them are told of, for a check; none that is longer than any of lull's.
func list(ctx context.Context, store blob.Store, prefix string) ([]blob.Info, error) {
	limit := maxListed
	if strings.HasPrefix(prefix, packPrefix) || strings.HasPrefix(prefix, indexPrefix) {
		limit = maxListedMany
	}
	return listUpTo(ctx, store, prefix, limit)
}

// listPoints collects the objects of points under a prefix. What else lies there is passed
// over: it is in no point's way, and nobody could give it up by a point's id.
func listPoints(ctx context.Context, store blob.Store, prefix string) ([]blob.Info, error) {
	all, err := list(ctx, store, prefix)
	return slices.DeleteFunc(all, func(i blob.Info) bool { return !isPoint(i) }), err
}

func listUpTo(ctx context.Context, store blob.Store, prefix string, limit int) ([]blob.Info, error) {
	var all []blob.Info
	seen, ours, foreign := 0, 0, 0
	err := store.List(ctx, prefix, func(i blob.Info) error {
		if seen++; seen > maxPassed*limit {
			return errListed
		}
		if !made(i.Name) {
			if foreign++; foreign <= maxForeign && len(i.Name) <= maxName {
				all = append(all, i)
			}
			return nil
		}
		if ours++; ours > limit {
			return errListed
		}
		all = append(all, i)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	return all, nil
}
