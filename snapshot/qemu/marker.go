package qemu

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// markerWait is how long an answer is waited for whether a marker is there.
const markerWait = time.Second

// marker is the file that says that a run may have left its VM standing still. Its disk may
// be dead, or hang, which must keep no VM from going on: what is not known counts as there.
type marker struct {
	path   string // empty: the plan has none
	answer chan error
	hangs  bool
}

func newMarker(p snapshot.Plan) *marker {
	if p.Saved.Path == "" {
		return &marker{}
	}
	return &marker{path: p.Saved.Path + savingSuffix}
}

// gone tells that the file is not there for sure. One question is asked at a time, and only
// the first is waited for if it is not answered. Nobody can end a system call that hangs: its
// goroutine ends when the disk comes back.
func (k *marker) gone(ctx context.Context) bool {
	if k.path == "" {
		return true
	}
	if k.answer == nil {
		answer := make(chan error, 1)
		go func() {
			_, err := os.Lstat(k.path)
			answer <- err
		}()
		k.answer = answer
	}
	wait := markerWait
	if k.hangs {
		wait = 0
	}
	limit := time.NewTimer(wait)
	defer limit.Stop()
	select {
	case err := <-k.answer:
		k.answer, k.hangs = nil, false
		return errors.Is(err, fs.ErrNotExist)
	case <-limit.C:
		k.hangs = true
	case <-ctx.Done():
	}
	return false
}
