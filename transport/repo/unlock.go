package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const (
	// maxKeys bounds the key files that are tried with a passphrase: each costs
	// what trying one is meant to cost.
	maxKeys = 16
	// maxKeyFiles bounds the key files of a repository.
	maxKeyFiles = 1 << 16
)

// unlocked is the keys that a passphrase opens.
type unlocked struct {
	id   ID
	ring *keys.Ring
}

// unlocking is a passphrase on its way to a key file that it fits.
type unlocking struct {
	store      blob.Store
	raw        []byte // config
	conf       parsedConfig
	passphrase []byte
}

// unlock opens the key file that the passphrase fits.
func unlock(ctx context.Context, store blob.Store, conf []byte, o OpenOptions) (unlocked, error) {
	parsed, err := parseConfig(conf)
	if err != nil {
		return unlocked{}, objectErr(configObject, err)
	}
	u := unlocking{store: store, raw: conf, conf: parsed, passphrase: o.Passphrase}
	var ring *keys.Ring
	switch {
	case o.Paper != nil:
		ring, err = u.openPaper(o.Paper)
	case o.KeyFile != nil:
		ring, err = u.open(ownKeyFile, o.KeyFile)
	default:
		ring, err = u.find(ctx, o.Label)
	}
	return unlocked{id: parsed.id, ring: ring}, err
}

// ownKeyFile stands for the key file that the host keeps.
const ownKeyFile = "key file of this host"

// find tries the store's key files one after the other, those of the label only.
func (u *unlocking) find(ctx context.Context, label string) (*keys.Ring, error) {
	files, err := list(ctx, u.store, keyPrefix)
	if err != nil {
		return nil, err
	}
	err = objectErr(keyPrefix, fmt.Errorf("%w: there is no key file", wire.ErrDamaged))
	if label != "" && len(files) > 0 {
		err = fmt.Errorf("%w: %s", ErrNoKey, label)
	}
	slices.SortFunc(files, func(a, b blob.Info) int { return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name)) })
	tries := 0
	var damaged, failed error
	for _, f := range files[:min(len(files), maxKeyFiles)] {
		b, tried := readNamed(ctx, u.store, f, keys.MaxFile)
		if tried == nil && label != "" && keys.FileLabel(b) != label {
			continue
		}
		var ring *keys.Ring
		if tried == nil {
			if tries++; tries > maxKeys {
				return nil, fmt.Errorf("%w: it opens none of the first %d key files; name the key's label", ErrPassphrase, maxKeys)
			}
			ring, tried = u.open(f.Name, b)
		}
		if tried == nil {
			return ring, nil
		}
		switch tried = objectErr(f.Name, tried); {
		case passable(tried):
			damaged = tried
		case !errors.Is(tried, ErrPassphrase):
			failed = tried // the store did not hand it out: it may be the one
		}
		if !errors.Is(err, ErrPassphrase) {
			err = tried
		}
	}
	if failed != nil {
		return nil, failed
	}
	if damaged != nil && errors.Is(err, ErrPassphrase) {
		err = fmt.Errorf("%w, or that of a key file that cannot be read: %w", err, damaged)
	}
	return nil, err
}

// openPaper opens with what Paper printed, without any key file.
func (u *unlocking) openPaper(text []byte) (*keys.Ring, error) {
	if !u.conf.format.Signed() {
		return nil, &readOnlyError{"use a paper key"}
	}
	secrets, err := keys.ParsePaper(keys.Repository(u.conf.id), text)
	if err != nil {
		return nil, err
	}
	ring, err := secrets.Ring(keys.Repository(u.conf.id), u.conf.public, nil)
	return ring, objectErr(configObject, err)
}

// open opens one key file.
func (u *unlocking) open(object string, b []byte) (*keys.Ring, error) {
	secrets, certificate, err := keys.Unlock(b, u.raw, u.passphrase)
	if errors.Is(err, keys.ErrPassphrase) {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, objectErr(object, err)
	}
	id := keys.Repository(u.conf.id)
	if u.conf.format.Signed() {
		ring, err := secrets.Ring(id, u.conf.public, certificate)
		return ring, objectErr(object, err)
	}
	ring, err := secrets.Master1().Ring1(id)
	if err == nil && !bytes.Equal(ring.PublicKey1(), u.conf.key1) {
		err = fmt.Errorf("%w: the public key is another one", wire.ErrDamaged)
	}
	return ring, objectErr(configObject, err)
}
