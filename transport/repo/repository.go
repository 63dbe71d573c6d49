package repo

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
)

// OpenOptions say how a repository is opened.
type OpenOptions struct {
	Passphrase []byte
	// KeyFile is a key file that this host keeps itself, as Export returned it. Nil:
	// the store's are tried.
	KeyFile []byte
	// Label is that of the key whose passphrase is given, which spares trying others.
	// Empty: it may be any.
	Label string
	// Cache is the folder for what is known of repositories, each in a folder
	// of its own below it. It may be lost at any time. Empty: a temporary one.
	Cache string
	// Now is the host's clock; nil: time.Now.
	Now func() time.Time

	limits limits // zero: defaultLimits
}

// Repository is an open repository. Its methods are safe for concurrent use.
type Repository struct {
	id         ID
	config     []byte
	store      blob.Store
	ring       *keys.Ring
	trust      trust
	tombstones tombstones
	codec      *pack.Codec
	index      *index.Index
	doubts     *doubts
	now        func() time.Time
	limits     limits

	syncing  sync.Mutex // held by who reads index objects that came later
	packKeys packKeys
	scratch  sync.Pool // *sealing
	leaves   sync.Pool // *leafWork
}

// Open opens the repository in a store: ErrNoRepository, ErrPassphrase,
// ErrVersion, ErrCorrupt. It reads the index objects that the cache does not hold
// yet.
func Open(ctx context.Context, store blob.Store, o OpenOptions) (*Repository, error) {
	conf, err := readConfig(ctx, store)
	if err != nil {
		return nil, err
	}
	u, err := unlock(ctx, store, conf, o)
	if err != nil {
		return nil, err
	}
	r := &Repository{id: u.id, config: conf, store: store, ring: u.ring, now: o.Now, limits: o.limits}
	if r.now == nil {
		r.now = time.Now
	}
	if r.limits == (limits{}) {
		r.limits = defaultLimits()
	}
	r.scratch.New = func() any { return new(sealing) }
	r.leaves.New = func() any { return new(leafWork) }
	if r.codec, err = pack.NewCodec(); err != nil {
		return nil, err
	}
	if err := r.loadTrust(ctx); err != nil {
		r.codec.Close()
		return nil, err
	}
	if err := r.openCache(ctx, o.Cache); err != nil {
		r.codec.Close()
		return nil, err
	}
	return r, nil
}

// openCache opens the index, and what is known of damage.
func (r *Repository) openCache(ctx context.Context, dir string) (err error) {
	r.doubts = &doubts{objects: map[string]bool{}}
	if dir != "" {
		r.doubts.path = filepath.Join(dir, r.id.String(), "damaged")
		dir = filepath.Join(dir, r.id.String(), "index")
	}
	if r.index, err = openIndex(ctx, r.store, r.ring, dir); err != nil {
		return err
	}
	r.doubts.index = r.index
	if err := r.doubts.load(); err != nil {
		return errors.Join(err, r.index.Close())
	}
	return nil
}

// ID names the repository.
func (r *Repository) ID() ID { return r.id }

// Close lets go of the cache. Sessions are to be closed before.
func (r *Repository) Close() error {
	r.codec.Close()
	return r.index.Close()
}

// sum is the hash by which keys, packs and index objects are named.
func sum(b []byte) [32]byte { return blake3.Sum256(b) }
