package index

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cache is the folder of the runs. Every process that uses it holds a shared lock
// on its lock file; who gets the lock alone, while opening, knows that leftovers
// are nobody's and removes them.
type cache struct {
	dir   string
	lock  *os.File
	own   bool // a temporary folder of our own
	alone bool
}

func openCache(dir string) (*cache, error) {
	c := &cache{dir: dir, own: dir == ""}
	var err error
	if c.own {
		c.dir, err = os.MkdirTemp("", "lull-index-*")
	} else {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	if c.lock, err = os.OpenFile(filepath.Join(c.dir, lockName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	err = unix.Flock(int(c.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	c.alone = err == nil
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = c.share()
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// share waits for a process that cleans up, which takes as long as its load.
func (c *cache) share() error {
	for {
		err := unix.Flock(int(c.lock.Fd()), unix.LOCK_SH)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// load maps every good run, and removes damaged ones and leftovers.
func (c *cache) load() (loaded runs, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, loaded.close())
		}
	}()
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		path := filepath.Join(c.dir, f.Name())
		if c.alone && strings.HasSuffix(path, tempSuffix) {
			if err := os.Remove(path); err != nil {
				return loaded, err
			}
		}
		if !strings.HasSuffix(path, runSuffix) {
			continue
		}
		r, err := openRun(path)
		switch {
		case errors.Is(err, os.ErrNotExist): // merged away by another process
		case errors.Is(err, ErrDamaged):
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return loaded, err
			}
		case err != nil:
			return loaded, err
		default:
			loaded = append(loaded, r)
		}
	}
	if loaded, err = c.dropCovered(loaded); err != nil {
		return loaded, err
	}
	if c.alone {
		return loaded, c.share()
	}
	return loaded, nil
}

// dropCovered lets go of runs whose sources others hold: what a process leaves
// behind when it ends between writing a merged run and removing its parts, or
// what two processes merged at once.
func (c *cache) dropCovered(loaded runs) (runs, error) {
	slices.SortStableFunc(loaded, func(a, b *run) int { return len(b.sources) - len(a.sources) })
	held := map[Source]bool{}
	var covered runs
	for _, r := range loaded {
		if all(r.sources, held) {
			covered = append(covered, r)
			continue
		}
		for _, id := range r.sources {
			held[id] = true
		}
	}
	rest := loaded.with(nil, covered)
	if c.alone {
		return rest, covered.discard()
	}
	return rest, covered.close()
}

func (c *cache) close() error {
	err := c.lock.Close()
	if c.own {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	return err
}
