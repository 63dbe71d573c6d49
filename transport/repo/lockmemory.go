package repo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/lull-backup/lull/transport/blob"
)

// lockMemory is what the file says that remembers locks.
type lockMemory struct {
	Mode    blob.LockMode         // of all locks that it remembers
	Locks   map[string]int64      // object -> the end of the lock that was made, in seconds
	Indexes map[string]indexLists // by index object
}

// indexLists is what an index object lists, as far as locks go.
type indexLists struct {
	Packs  [][]byte // names
	Makers [][]byte // certificates of those who made the packs
}

// maxLockMemory bounds the file that remembers locks, in bytes.
const maxLockMemory = 1 << 30

// recall reads which locks were made. A file that cannot be read remembers nothing.
func (l *relock) recall() {
	l.known = lockMemory{Mode: l.o.Mode, Locks: map[string]int64{}}
	if l.o.Memory == "" {
		return
	}
	f, err := os.Open(l.o.Memory)
	if err != nil {
		return
	}
	defer f.Close()
	var m lockMemory
	if err := json.NewDecoder(io.LimitReader(f, maxLockMemory)).Decode(&m); err != nil || m.Locks == nil {
		return
	}
	l.known.Indexes = m.Indexes
	if m.Mode == l.o.Mode { // locks of another mode are not those that are asked for now
		l.known.Locks = m.Locks
	}
}

// remember writes which locks were made, those of a renewal that failed half-way too.
func (l *relock) remember() error {
	if l.o.Memory == "" {
		return nil
	}
	b, err := json.Marshal(l.known)
	if err != nil {
		return fmt.Errorf("encode locks: %w", err)
	}
	return replaceFile(l.o.Memory, b)
}
