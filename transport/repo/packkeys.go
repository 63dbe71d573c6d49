package repo

import (
	"context"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
)

// maxPackKeys bounds the opened keys that are kept, about 700 bytes each.
const maxPackKeys = 4096

// packKeys keeps the opened keys of packs: each costs a request and an HPKE
// opening of a tenth of a millisecond.
type packKeys struct {
	mu   sync.Mutex
	keys map[[32]byte]*keys.PackKey
}

func (k *packKeys) get(pack [32]byte) *keys.PackKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[pack]
}

func (k *packKeys) put(pack [32]byte, key *keys.PackKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = map[[32]byte]*keys.PackKey{}
	}
	if len(k.keys) >= maxPackKeys {
		for old := range k.keys { // any one
			delete(k.keys, old)
			break
		}
	}
	k.keys[pack] = key
}

// readPack reads the bytes from..to of a pack, and returns them with the pack's key.
// A key that is not known yet is at the pack's start: one read fetches both when
// that is near.
func (r *Repository) readPack(ctx context.Context, store blob.Store, pack [32]byte, from, to int64) (*keys.PackKey, []byte, error) {
	key := r.packKeys.get(pack)
	if key != nil {
		b, err := store.Read(ctx, packObject(pack), from, to-from)
		return key, b, err
	}
	size := r.ring.PackHeaderSize()
	header := int64(size)
	if from <= maxGap {
		header = to
	}
	b, err := store.Read(ctx, packObject(pack), 0, header)
	if err != nil {
		return nil, nil, err
	}
	if key, _, err = r.ring.OpenPackKey(b[:size]); err != nil {
		return nil, nil, err
	}
	r.packKeys.put(pack, key)
	if from <= maxGap {
		return key, b[from:], nil
	}
	b, err = store.Read(ctx, packObject(pack), from, to-from)
	return key, b, err
}
