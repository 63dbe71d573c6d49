package repo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/transport/blob"
)

// memory is what this host has seen in the store, so that a store that is set back, or
// that leaves something out, is caught. It outlives the process in a file beside the
// index cache; losing that costs no more than the memory.
type memory struct {
	path string // empty: it ends with the process

	mu   sync.Mutex
	seen seen
}

// seen is the file.
type seen struct {
	Epoch   int             `json:"epoch"`  // the newest
	Removed map[string]bool `json:"gone"`   // keys that were removed, by their signers
	Newest  map[string]Head `json:"newest"` // point of each VM, by the VM's name in the store
	// Own are the VMs that this host backs up, Mine the points of them that it made last:
	// another's may be dated later, and would be all that is remembered.
	Own  map[string]bool `json:"own"`
	Mine map[string]Head `json:"mine,omitempty"`
}

// maxMemory bounds the file in bytes.
const maxMemory = 64 << 20

// vmOf is the name of a head's VM in the store.
func (h Head) vmOf() string {
	vm, _, _ := strings.Cut(h.Point, "/")
	return vm
}

// load reads what this or another process has seen. A file that cannot be understood
// counts for none: it may be lost.
func (m *memory) load() error {
	if m.path == "" {
		return nil
	}
	s, err := readSeen(m.path)
	if err != nil {
		return fmt.Errorf("read what was seen of the store: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = s
	return nil
}

func readSeen(path string) (s seen, err error) {
	b, err := durable.ReadFile(path, maxMemory)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, durable.ErrTooLong) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if json.Unmarshal(b, &s) != nil {
		return seen{}, nil
	}
	return s, nil
}

// newest are the newest points that were seen, of one VM or, for "", of all, and those that
// this host made last.
func (m *memory) newest(vm string) []Head {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Head
	for name, h := range m.seen.Newest {
		if vm == "" || name == vm {
			all = append(all, h)
		}
	}
	for name, h := range m.seen.Mine {
		if (vm == "" || name == vm) && m.seen.Newest[name] != h {
			all = append(all, h)
		}
	}
	slices.SortFunc(all, func(a, b Head) int { return strings.Compare(a.Point, b.Point) })
	return all
}

// heads are the newest points that this host knows of the other VMs that it backs up, and its
// own last of this VM, where that is not the parent.
func (m *memory) heads(vm, parent string) []Head {
	mine := m.now().Mine[vm]
	return slices.DeleteFunc(m.newest(""), func(h Head) bool {
		return !m.own(h.vmOf()) || h.vmOf() == vm && (h != mine || h.Point == vm+"/"+strings.ToLower(parent))
	})
}

func (m *memory) own(vm string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen.Own[vm]
}

// see takes down points that were seen, of each VM the newest; own says that this host
// made them.
func (m *memory) see(own bool, heads ...Head) {
	m.update(func(s *seen) (changed bool) {
		for _, h := range heads {
			vm := h.vmOf()
			if own && !s.Own[vm] {
				s.Own = with(s.Own, vm, true)
				changed = true
			}
			if own && s.Mine[vm] != h {
				s.Mine = with(s.Mine, vm, h)
				changed = true
			}
			if s.Newest[vm].Point < h.Point { // ids sort by time
				s.Newest = with(s.Newest, vm, h)
				changed = true
			}
		}
		return changed
	})
}

// forget drops points that are gone on purpose.
func (m *memory) forget(heads ...Head) {
	m.update(func(s *seen) (changed bool) {
		for _, h := range heads {
			if s.Newest[h.vmOf()] == h {
				s.Newest = maps.Clone(s.Newest)
				delete(s.Newest, h.vmOf())
				changed = true
			}
			if s.Mine[h.vmOf()] == h {
				s.Mine = maps.Clone(s.Mine)
				delete(s.Mine, h.vmOf())
				changed = true
			}
		}
		return changed
	})
}

func with[V any](m map[string]V, key string, v V) map[string]V {
	if m = maps.Clone(m); m == nil {
		m = map[string]V{}
	}
	m[key] = v
	return m
}

// update changes what was seen, here and in the file, with a lock against other
// processes. When the file cannot be written, as on a full disk, the memory ends with the
// process: no reason to fail a backup or a restore.
func (m *memory) update(change func(*seen) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.seen
	if !change(&next) {
		return
	}
	if m.path == "" || m.write(change) != nil {
		m.seen = next
	}
}

func (m *memory) write(change func(*seen) bool) error {
	lock, err := os.OpenFile(m.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // ends the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	s, err := readSeen(m.path)
	if err != nil {
		return err
	}
	change(&s)
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := replaceFile(m.path, b); err != nil {
		return err
	}
	m.seen = s
	return nil
}

// replaceFile puts a file in place of another, durably.
func replaceFile(path string, b []byte) error { return durable.Put(path, b, 0o600, true) }

// epoch fails when the store shows fewer epochs than this host has seen, and takes down
// what it shows now.
func (m *memory) epoch(n int) error {
	if before := m.now().Epoch; n < before {
		return objectErr(epochObject(before), fmt.Errorf("%w: this host has seen it", ErrOmitted))
	}
	m.update(func(s *seen) bool {
		changed := s.Epoch < n
		s.Epoch = max(s.Epoch, n)
		return changed
	})
	return nil
}

// removals does the same for keys that were removed.
func (m *memory) removals(removed []string) error {
	for before := range m.now().Removed {
		if !slices.Contains(removed, before) {
			return objectErr(revokedPrefix, fmt.Errorf("%w: this host has seen that key %.20s was removed", ErrOmitted, before))
		}
	}
	m.update(func(s *seen) (changed bool) {
		for _, key := range removed {
			if !s.Removed[key] {
				s.Removed = with(s.Removed, key, true)
				changed = true
			}
		}
		return changed
	})
	return nil
}

func (m *memory) now() seen {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen
}

// listed are objects by name.
type listed map[string]blob.Info

func listedOf(infos []blob.Info) listed {
	l := make(listed, len(infos))
	for _, i := range infos {
		l[i.Name] = i
	}
	return l
}
