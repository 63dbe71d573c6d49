package index

import (
	"errors"
	"os"
	"path/filepath"
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
	sync  func(*os.File) error // makes a file or folder durable
}

func openCache(dir string) (*cache, error) {
	c := &cache{dir: dir, own: dir == "", sync: (*os.File).Sync}
	var err error
	if c.own {
		c.sync = func(*os.File) error { return nil }
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

// load maps every run that is good at first sight, and removes damaged ones, those
// of other versions and leftovers.
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
		r, err := c.loadFile(path)
		if err != nil {
			return loaded, err
		}
		if r != nil {
			loaded = append(loaded, r)
		}
	}
	if loaded, err = c.dropCovered(loaded.with(nil, nil)); err != nil {
		return loaded, err
	}
	if c.alone {
		return loaded, c.share()
	}
	return loaded, nil
}

// loadFile maps a file if it is a run.
func (c *cache) loadFile(path string) (*run, error) {
	if !strings.HasSuffix(path, runSuffix) {
		if other := strings.HasPrefix(filepath.Ext(path), ".run"); c.alone && (other || strings.HasSuffix(path, tempSuffix)) {
			return nil, remove(path)
		}
		return nil, nil
	}
	r, err := openRun(path)
	if errors.Is(err, os.ErrNotExist) { // merged away by another process
		return nil, nil
	}
	if errors.Is(err, ErrDamaged) {
		return nil, remove(path)
	}
	return r, err
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// dropCovered lets go of runs whose sources others hold: what a process leaves
// behind when it ends between writing a merged run and removing its parts, or
// what two processes merged at once. The smallest go first.
func (c *cache) dropCovered(loaded runs) (runs, error) {
	for {
		needed, err := loaded.needed()
		if bad := loaded.blamed(err); bad != nil {
			loaded = loaded.with(nil, runs{bad})
			if err := (runs{bad}).discard(); err != nil {
				return loaded, err
			}
			continue
		}
		if err != nil {
			return loaded, err
		}
		i := len(loaded) - 1
		for i >= 0 && needed[i] {
			i--
		}
		if i < 0 {
			return loaded, nil
		}
		covered := runs{loaded[i]}
		loaded = loaded.with(nil, covered)
		end := covered.close
		if c.alone {
			end = covered.discard
		}
		if err := end(); err != nil {
			return loaded, err
		}
	}
}

// needed tells of each run whether it has a source that no other has.
func (rs runs) needed() ([]bool, error) {
	needed := make([]bool, len(rs))
	cursors := make([]cursor[Source], len(rs))
	err := guard(func() error {
		for i, r := range rs {
			cursors[i] = r.sources()
		}
		return groups(cursors, compareSources, func(_ *Source, among []int) error {
			if len(among) == 1 {
				needed[among[0]] = true
			}
			return nil
		})
	})
	return needed, err
}

func (c *cache) close() error {
	err := c.lock.Close()
	if c.own {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	return err
}

func (c *cache) syncDir() error {
	d, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	return errors.Join(c.sync(d), d.Close())
}
