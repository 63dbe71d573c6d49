package layer

import (
	"container/list"
	"sync"
)

const (
	// TablePiece is how much of a table is read at a time: with clusters of 64
	// KiB, the piece maps 512 MiB of disk.
	TablePiece = 64 << 10

	// tableMemory bounds the cached tables of one chain, in bytes.
	tableMemory = 8 << 20

	// entryCost is what an entry costs beside its bytes, about.
	entryCost = 256
)

// tableKey is a place in one file of a chain.
type tableKey struct {
	layer, part int
	off         int64
}

type tableEntry struct {
	key  tableKey
	data []byte
}

// Cache keeps the pieces of tables that were used last, of all layers of a chain.
type Cache struct {
	mu    sync.Mutex
	used  int
	order list.List // front: used last
	at    map[tableKey]*list.Element
}

// NewCache makes an empty cache.
func NewCache() *Cache { return &Cache{at: map[tableKey]*list.Element{}} }

// Tables is the view of one layer on a cache.
type Tables struct {
	cache       *Cache
	layer, part int
}

// Part is the view of one of the layer's files, where it has several.
func (t Tables) Part(number int) Tables {
	t.part = number
	return t
}

// Layer is the view of the layer with that number.
func (c *Cache) Layer(number int) Tables { return Tables{cache: c, layer: number} }

// Get returns the piece that the layer knows by off, with load reading it when it
// is not here. The caller does not change it.
func (t Tables) Get(off int64, load func() ([]byte, error)) ([]byte, error) {
	return t.cache.get(tableKey{t.layer, t.part, off}, load)
}

// Bytes returns the bytes of a table from at to the end of the piece that holds
// them, width at least. read fills a piece of the file.
func (t Tables) Bytes(f *File, table Table, at, width int64) ([]byte, error) {
	start := at / TablePiece * TablePiece
	data, err := t.Get(table.Start+start, func() ([]byte, error) {
		b := make([]byte, min(TablePiece, table.Length-start))
		read := table.Read
		if read == nil {
			read = f.Read
		}
		return b, read(b, table.Start+start, table.Name)
	})
	if err != nil {
		return nil, err
	}
	if at-start > int64(len(data))-width {
		// Another table begins at the same place, with another length.
		return nil, f.Corrupt("%s at %#x overlaps another table", table.Name, table.Start)
	}
	return data[at-start:], nil
}

// Table is a place in a file.
type Table struct {
	Name          string // for errors
	Start, Length int64
	Read          func(p []byte, off int64, what string) error // nil: File.Read
}

// get loads what is not here. Two callers may load one piece at a time; that is
// harmless.
func (c *Cache) get(key tableKey, load func() ([]byte, error)) ([]byte, error) {
	if data := c.find(key); data != nil {
		return data, nil
	}
	data, err := load()
	if err != nil {
		return nil, err
	}
	c.put(key, data)
	return data, nil
}

func (c *Cache) find(key tableKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.at[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*tableEntry).data
}

func (c *Cache) put(key tableKey, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at[key] != nil {
		return
	}
	c.at[key] = c.order.PushFront(&tableEntry{key, data})
	c.used += len(data) + entryCost
	for c.used > tableMemory {
		last := c.order.Back()
		old := c.order.Remove(last).(*tableEntry)
		delete(c.at, old.key)
		c.used -= len(old.data) + entryCost
	}
}
