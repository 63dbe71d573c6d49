package repo

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
)

// Cost is what trying a passphrase costs: argon2id, RFC 9106.
type Cost = keys.Cost

// InitOptions say how a repository is made.
type InitOptions struct {
	Passphrase []byte
	Cost       Cost // zero: 3 passes over 64 MiB
	// Label names the owner's key; empty: "owner".
	Label string
	// Now is the time of its making; nil: time.Now.
	Now func() time.Time
}

// Init makes a new repository in a store: ErrExists when it holds one already.
// The config object, put last, is what makes it one.
func Init(ctx context.Context, store blob.Store, o InitOptions) (ID, error) {
	if len(o.Passphrase) == 0 {
		return ID{}, errors.New("make repository: the passphrase is empty")
	}
	if o.Cost == (Cost{}) {
		o.Cost = keys.DefaultCost()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if _, err := store.Stat(ctx, configObject); err == nil {
		return ID{}, fmt.Errorf("%w: %s", ErrExists, store)
	} else if !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, blob.ErrNoBucket) {
		return ID{}, fmt.Errorf("make repository: %w", err)
	}
	var id ID
	rand.Read(id[:])
	conf, key, err := newKey(id, o)
	if err != nil {
		return ID{}, fmt.Errorf("make repository: %w", err)
	}
	name := keyObject(sum(key))
	if err := store.Create(ctx, name, key); err != nil {
		return ID{}, fmt.Errorf("make repository: %w", err)
	}
	if err := store.Create(ctx, configObject, conf); err != nil {
		return ID{}, lostInit(ctx, store, name, err)
	}
	return id, nil
}

// newKey makes the config object and the key file that belongs to it.
func newKey(id ID, o InitOptions) (conf, key []byte, err error) {
	master := keys.NewMaster()
	public, err := master.Public(keys.Repository(id))
	if err != nil {
		return nil, nil, err
	}
	if conf, err = encodeConfig(id, public); err != nil {
		return nil, nil, err
	}
	secrets, certificate, err := master.NewKey(keys.Repository(id), keys.Certificate{
		Label: cmp.Or(o.Label, "owner"), Roles: keys.Owner, Created: o.Now(), Epoch: 1,
	})
	if err != nil {
		return nil, nil, err
	}
	key, err = keys.Lock(secrets, keys.Repository(id), certificate, conf, o.Passphrase, o.Cost)
	return conf, key, err
}

const cleanUpTime = 30 * time.Second

// lostInit removes the key file of a repository that did not come to be.
func lostInit(ctx context.Context, store blob.Store, key string, err error) error {
	if errors.Is(err, blob.ErrExists) {
		err = fmt.Errorf("%w: %s", ErrExists, store)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	return errors.Join(fmt.Errorf("make repository: %w", err), store.Delete(ctx, key))
}
