package image

import (
	"container/list"
	"sync"
)

const (
	// tablePiece is how much of a table is read at a time: with clusters of 64
	// KiB, the piece maps 512 MiB of disk.
	tablePiece = 64 << 10

	// tableMemory bounds the cached tables of one chain, in bytes.
	tableMemory = 8 << 20

	// entryCost is what an entry costs beside its bytes, about.
	entryCost = 256
)

// tableKey is a place in one file of a chain.
type tableKey struct {
	layer int
	off   int64
}

type tableEntry struct {
	key  tableKey
	data []byte
}

// tableCache keeps the pieces of L1 and L2 tables that were used last.
type tableCache struct {
	mu    sync.Mutex
	used  int
	order list.List // front: used last
	at    map[tableKey]*list.Element
}

func newTableCache() *tableCache { return &tableCache{at: map[tableKey]*list.Element{}} }

// get returns the piece at key, with load reading it when it is not here. Two
// callers may load one piece at a time; that is harmless.
func (c *tableCache) get(key tableKey, load func() ([]byte, error)) ([]byte, error) {
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

func (c *tableCache) find(key tableKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.at[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*tableEntry).data
}

func (c *tableCache) put(key tableKey, data []byte) {
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
