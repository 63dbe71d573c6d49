package block

import (
	"errors"
	"sync"

	"github.com/zeebo/blake3"
)

// KeySize is the length of a naming key in bytes.
const KeySize = 32

var errKeySize = errors.New("naming key: want 32 bytes")

// Namer names blocks by keyed BLAKE3. Data and map nodes have a Namer each, under
// keys of their own, so that no content can pass for the other kind.
type Namer struct {
	pool *sync.Pool
}

// NewNamer makes the namer of a key of KeySize bytes.
func NewNamer(key []byte) (Namer, error) {
	if len(key) != KeySize {
		return Namer{}, errKeySize
	}
	keyed, err := blake3.NewKeyed(key)
	if err != nil {
		return Namer{}, errKeySize
	}
	return Namer{pool: &sync.Pool{New: func() any { return &hasher{h: keyed.Clone()} }}}, nil
}

// hasher carries its result, so that naming a block allocates nothing.
type hasher struct {
	h   *blake3.Hasher
	sum []byte
}

// Name returns the name of a block.
func (n Namer) Name(b []byte) (name Name) {
	h := n.pool.Get().(*hasher)
	defer n.pool.Put(h)
	h.h.Reset()
	h.h.Write(b)
	h.sum = h.h.Sum(h.sum[:0])
	copy(name[:], h.sum)
	return name
}
