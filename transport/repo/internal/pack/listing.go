package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// MaxIndex bounds an index object in bytes.
const MaxIndex = 64 << 20

const listingFixed = 32 + 1 + 4 + 4 // name, kind, size, number of segments

// Listing is what an index object says of one pack.
type Listing struct {
	Pack      [32]byte // BLAKE3 of its bytes
	Kind      wire.Kind
	Size      uint32
	Directory Directory
}

// SealIndex makes the index object of some packs.
func SealIndex(ring *keys.Ring, packs []Listing) ([]byte, error) {
	plain := binary.LittleEndian.AppendUint32(nil, uint32(len(packs)))
	for i := range packs {
		l := &packs[i]
		plain = append(plain, l.Pack[:]...)
		plain = append(plain, byte(l.Kind))
		plain = binary.LittleEndian.AppendUint32(plain, l.Size)
		plain = l.Directory.append(plain)
	}
	prefix := wire.Prefix(wire.Index)
	return ring.SealIndex(prefix[:], wire.Index, plain)
}

// OpenIndex reads an index object.
func OpenIndex(ring *keys.Ring, object []byte) ([]Listing, error) {
	if err := wire.WantPrefix(object, wire.Index); err != nil {
		return nil, err
	}
	plain, err := ring.OpenIndex(wire.Index, object[wire.PrefixSize:])
	if err != nil {
		return nil, err
	}
	return parseIndex(plain)
}

func parseIndex(plain []byte) ([]Listing, error) {
	r := wire.NewReader(plain)
	packs := make([]Listing, r.Count(r.Uint32(), listingFixed))
	for i := range packs {
		l := &packs[i]
		l.Pack, l.Kind, l.Size = r.Name(), wire.Kind(r.Byte()), r.Uint32()
		if l.Kind != wire.DataPack && l.Kind != wire.NodePack || l.Size > MaxPack {
			return nil, fmt.Errorf("%w: index: pack of kind %#x, %d bytes", wire.ErrDamaged, byte(l.Kind), l.Size)
		}
		dir, end, err := parseDirectory(r)
		if err != nil {
			return nil, err
		}
		if end > l.Size {
			return nil, fmt.Errorf("%w: index: segments end at %d of %d", wire.ErrDamaged, end, l.Size)
		}
		l.Directory = dir
	}
	return packs, r.Done()
}
