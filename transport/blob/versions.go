package blob

import (
	"context"
	"fmt"
	"time"
)

// Hidden is an object that is in the store and that Read does not show: someone
// deleted it in a way that leaves its bytes, or wrote another over it.
type Hidden struct {
	Name    string
	Size    int64     // of the first version, which is the one that counts
	Created time.Time // of that version
	Deleted bool      // there is nothing under the name; else something else is
	Since   time.Time // when it was hidden
}

// Versioner is a Store that may keep what was deleted or overwritten. lull writes
// each name once, so the first version of an object is the true one, whatever came
// on top of it. A decorator is a Versioner whatever is below it: where the innermost
// store keeps no versions, both methods fail with ErrNoVersions.
type Versioner interface {
	Store

	// Hidden calls fn, as List does, for every object under prefix that is hidden.
	Hidden(ctx context.Context, prefix string, fn func(Hidden) error) error

	// Reveal makes the first version of an object the one that Read shows, and
	// is done when it is already: ErrNotFound. It deletes what hides it, or where
	// that is locked lays a copy of the first version on top.
	Reveal(ctx context.Context, name string) error
}

// HiddenOf is Hidden of a store, or ErrNoVersions.
func HiddenOf(ctx context.Context, s Store, prefix string, fn func(Hidden) error) error {
	if v, ok := s.(Versioner); ok {
		return v.Hidden(ctx, prefix, fn)
	}
	return fmt.Errorf("list what is hidden in %s: %w", s, ErrNoVersions)
}

// Reveal is Reveal of a store, or ErrNoVersions.
func Reveal(ctx context.Context, s Store, name string) error {
	if v, ok := s.(Versioner); ok {
		return v.Reveal(ctx, name)
	}
	return fmt.Errorf("reveal %s in %s: %w", name, s, ErrNoVersions)
}
