package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// OpenOptions say how a repository is opened.
type OpenOptions struct {
	Passphrase []byte
	// Cache is the folder for what is known of repositories, each in a folder
	// of its own below it. It may be lost at any time. Empty: a temporary one.
	Cache string
	// Now is the host's clock; nil: time.Now.
	Now func() time.Time

	limits limits // zero: defaultLimits
}

// Repository is an open repository. Its methods are safe for concurrent use.
type Repository struct {
	id     ID
	config []byte
	store  blob.Store
	ring   *keys.Ring
	codec  *pack.Codec
	index  *index.Index
	doubts *doubts
	now    func() time.Time
	limits limits

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
	id, ring, err := unlock(ctx, store, conf, o.Passphrase)
	if err != nil {
		return nil, err
	}
	r := &Repository{id: id, config: conf, store: store, ring: ring, now: o.Now, limits: o.limits}
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

// maxKeys bounds the key files that are tried with a passphrase.
const maxKeys = 16

// unlock opens the key file that the passphrase fits.
func unlock(ctx context.Context, store blob.Store, conf, passphrase []byte) (ID, *keys.Ring, error) {
	id, public, err := parseConfig(conf)
	if err != nil {
		return ID{}, nil, objectErr(configObject, err)
	}
	files, err := list(ctx, store, keyPrefix)
	if err != nil {
		return ID{}, nil, err
	}
	err = objectErr(keyPrefix, fmt.Errorf("%w: there is no key file", wire.ErrDamaged))
	for _, f := range files[:min(len(files), maxKeys)] {
		m, tried := unlockOne(ctx, store, f, conf, passphrase)
		if tried == nil {
			ring, err := m.Ring(keys.Repository(id))
			if err == nil && !bytes.Equal(ring.PublicKey(), public) {
				err = objectErr(configObject, fmt.Errorf("%w: the public key is another one", wire.ErrDamaged))
			}
			return id, ring, err
		}
		if !errors.Is(err, ErrPassphrase) {
			err = tried
		}
	}
	return ID{}, nil, err
}

func unlockOne(ctx context.Context, store blob.Store, f blob.Info, conf, passphrase []byte) (keys.Master, error) {
	b, err := readNamed(ctx, store, f, keys.MaxFile)
	if err != nil {
		return keys.Master{}, objectErr(f.Name, err)
	}
	m, err := keys.Unlock(b, conf, passphrase)
	if errors.Is(err, keys.ErrPassphrase) {
		return m, ErrPassphrase
	}
	return m, objectErr(f.Name, err)
}

// sum is the hash by which keys, packs and index objects are named.
func sum(b []byte) [32]byte { return blake3.Sum256(b) }
