package durable

import (
	"fmt"
	"io"
	"os"

	"github.com/lull-backup/lull/snapshot"
)

// ErrTooLong is the error for a file that is longer than it may be.
var ErrTooLong = fmt.Errorf("the file is too long: %w", snapshot.ErrUnsupported)

// ReadFile reads a file of at most limit bytes whole.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes at most", path, ErrTooLong, limit)
	}
	return b, nil
}
