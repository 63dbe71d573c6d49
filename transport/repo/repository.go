package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	// Paper is the text that Paper returned: it opens without any passphrase or key file.
	Paper []byte
	// Label is that of the key whose passphrase is given, which spares trying others.
	// Empty: it may be any.
	Label string
	// Cache is the folder for what is known of repositories, each in a folder
	// of its own below it. It may be lost at any time. Empty: a temporary one.
	Cache string
	// Domain is whose packs backups build on; the zero Domain: all keys'.
	Domain Domain
	// Compression is how hard backups compress; empty: Auto.
	Compression Compression
	// Padding makes packs longer, so that their sizes tell less of what is in them.
	Padding bool
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
	cache      string // of this repository; "" for none
	memory     memory
	domain     domain
	padding    bool
	parents    parents
	now        func() time.Time
	limits     limits

	compression Compression

	known    known
	syncing  sync.Mutex // held by who reads index objects that came later
	packKeys packKeys
	scratch  sync.Pool // *sealing
	leaves   sync.Pool // *leafWork
}

// Open opens the repository in a store: ErrNoRepository, ErrPassphrase,
// ErrVersion, ErrCorrupt, ErrNoKey. It reads the index objects that the cache does not hold
// yet.
func Open(ctx context.Context, store blob.Store, o OpenOptions) (*Repository, error) {
	if err := o.Compression.check(); err != nil {
		return nil, err
	}
	conf, err := readConfig(ctx, store)
	if err != nil {
		return nil, err
	}
	u, err := unlock(ctx, store, conf, o)
	if err != nil {
		return nil, err
	}
	r := &Repository{id: u.id, config: conf, store: store, ring: u.ring, now: o.Now, limits: o.limits, compression: o.Compression}
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
	if err := r.open(ctx, o); err != nil {
		r.codec.Close()
		return nil, err
	}
	return r, nil
}

// open reads which keys there are, what this host knows of the store, and the index.
func (r *Repository) open(ctx context.Context, o OpenOptions) error {
	r.padding = o.Padding
	if o.Cache != "" {
		r.cache = filepath.Join(o.Cache, r.id.String())
		r.memory.path = filepath.Join(r.cache, "seen")
		r.tombstones.path = filepath.Join(r.cache, "forgotten")
		if err := os.MkdirAll(r.cache, 0o700); err != nil {
			return fmt.Errorf("make cache: %w", err)
		}
	}
	if err := r.memory.load(); err != nil {
		return err
	}
	if err := r.loadTrust(ctx); err != nil {
		return err
	}
	if err := r.openDomain(ctx, o.Domain); err != nil {
		return err
	}
	return r.openCache(ctx)
}

// openCache opens the index, and what is known of damage.
func (r *Repository) openCache(ctx context.Context) (err error) {
	r.doubts = &doubts{objects: map[string]bool{}}
	dir := ""
	if r.cache != "" {
		r.doubts.path = filepath.Join(r.cache, "damaged")
		dir = filepath.Join(r.cache, "index")
	}
	// What maintenance decides comes before the list of index objects: decided later,
	// it makes that list too long, which the next session finds.
	if r.known.marks, err = r.readableMarks(ctx); err != nil {
		return err
	}
	r.known.reconciled, r.known.opened = r.known.marks.done, r.known.marks.done
	if err = r.openIndex(ctx, dir); err != nil {
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
