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

// packKey returns the key of a pack.
func (r *Repository) packKey(ctx context.Context, store blob.Store, pack [32]byte) (*keys.PackKey, error) {
	if key := r.packKeys.get(pack); key != nil {
		return key, nil
	}
	header, err := store.Read(ctx, packObject(pack), 0, keys.PackHeaderSize)
	if err != nil {
		return nil, err
	}
	key, _, err := r.ring.OpenPackKey(header)
	if err != nil {
		return nil, err
	}
	r.packKeys.put(pack, key)
	return key, nil
}
