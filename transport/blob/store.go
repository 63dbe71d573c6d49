package blob

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Store keeps objects. All methods are safe for concurrent use, check names with
// CheckName before anything else, and fail when ctx is done before they begin; a
// Store changes nothing more once ctx is done. Errors say what was done to which
// object; one that wraps none of the sentinels is taken for passing and may be
// tried again.
type Store interface {
	// Create writes a whole object durably, or fails with ErrExists when the
	// name is taken; then nothing has changed. Of several calls for one name
	// exactly one succeeds. No reader ever sees a part of an object. A lost
	// reply is resolved: when the object is there and is this very call's (see
	// Nonce), Create returns nil. After any other error the object may be there
	// whole, or not at all. The caller does not change data until return.
	Create(ctx context.Context, name string, data []byte) error

	// Read returns length bytes from off, or everything from off on when
	// length < 0. ErrNotFound; ErrRange when the object ends before off or
	// off+length, or off < 0. It never returns fewer bytes without an error.
	// The caller owns the result.
	Read(ctx context.Context, name string, off, length int64) ([]byte, error)

	// Stat returns an object's size and the store's own time of its creation.
	// ErrNotFound.
	Stat(ctx context.Context, name string) (Info, error)

	// List calls fn on the caller's goroutine once for every object whose name
	// starts with prefix (any string, not only whole segments), in any order,
	// until fn fails; that error is returned as it is. Objects created or
	// deleted meanwhile may be listed or not; all others are. Whatever else
	// lies in the store under names that are none is passed over.
	List(ctx context.Context, prefix string, fn func(Info) error) error

	// Delete removes an object durably; one that is not there is no error.
	Delete(ctx context.Context, name string) error

	// String names the store for messages: no secrets.
	String() string
}

// Info describes an object.
type Info struct {
	Name    string
	Size    int64 // bytes
	Created time.Time
}

const (
	// MaxName is the longest object name in bytes.
	MaxName = 200
	// MaxSize is the largest object, in bytes: what a Store takes at most, and
	// what it believes of an object that it is asked to read whole.
	MaxSize = 1 << 30
)

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

// CheckRange is the number of bytes that a Read of an object of size bytes
// returns, or ErrRange.
func CheckRange(size, off, length int64) (int64, error) {
	if off < 0 || off > size || length > size-off {
		return 0, fmt.Errorf("%w: %d bytes from %d of %d", ErrRange, length, off, size)
	}
	if length >= 0 {
		return length, nil
	}
	if size-off > MaxSize {
		return 0, fmt.Errorf("%w: %d bytes, %d allowed", ErrTooBig, size-off, MaxSize)
	}
	return size - off, nil
}
