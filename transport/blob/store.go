package blob

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Store keeps objects. All methods are safe for concurrent use. An error that
// wraps none of the sentinels below is taken for passing and may be retried.
type Store interface {
	// Create writes a whole object durably, or ErrExists when the name is
	// taken; then nothing has changed. No reader ever sees a part of it. A
	// lost reply is resolved inside: when the object is there and is this very
	// call's, Create returns nil. The caller does not change data until return.
	Create(ctx context.Context, name string, data []byte) error

	// Read returns length bytes from off, or everything from off on when
	// length < 0. ErrNotFound; ErrRange when the object ends before
	// off+length. It never returns fewer bytes without an error.
	Read(ctx context.Context, name string, off, length int64) ([]byte, error)

	// Stat returns an object's size and the store's own time of its creation.
	Stat(ctx context.Context, name string) (Info, error)

	// List calls fn for every object whose name starts with prefix, in any
	// order, until fn fails; that error is returned as it is.
	List(ctx context.Context, prefix string, fn func(Info) error) error

	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, name string) error

	// String names the store for messages: no secrets.
	String() string
}

// Info describes an object.
type Info struct {
	Name    string
	Size    int64
	Created time.Time
}

// Errors that every store reports alike; test with errors.Is.
var (
	ErrNotFound    = errors.New("no such object")
	ErrExists      = errors.New("object exists")
	ErrRange       = errors.New("object is shorter than the range asked for")
	ErrDenied      = errors.New("access denied")
	ErrNoBucket    = errors.New("no such bucket or folder")
	ErrNoSpace     = errors.New("store is full")
	ErrUnreachable = errors.New("store is unreachable")
	ErrBadName     = errors.New("not an object name")
)

// Permanent reports whether trying again is of no use.
func Permanent(err error) bool {
	for _, e := range []error{ErrNotFound, ErrExists, ErrRange, ErrDenied, ErrNoBucket, ErrNoSpace, ErrBadName, context.Canceled} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// MaxName is the longest object name in bytes.
const MaxName = 200

// CheckName fails with ErrBadName for what is no object name.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%w: %d bytes, 1 to %d allowed", ErrBadName, len(name), MaxName)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || strings.Trim(part, "0123456789abcdefghijklmnopqrstuvwxyz._-") != "" {
			return fmt.Errorf("%w: %q", ErrBadName, name)
		}
	}
	return nil
}
