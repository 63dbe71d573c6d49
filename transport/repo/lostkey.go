package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
)

// keyToRemove is a key by its label, or by what verifies its signatures. Where no file of it
// can be found it is one that has signed something that is there: who has taken a host over
// may have kept a copy of the key's file and deleted it in the store, and his key is to be
// removed all the same.
func (r *Repository) keyToRemove(ctx context.Context, name string) (Key, []Key, error) {
	all, damaged := r.present(ctx)
	if damaged != nil && !passable(damaged) {
		return Key{}, nil, damaged
	}
	for _, k := range all {
		if k.Label == name || k.Signer == name {
			return k, all, nil
		}
	}
	found := map[string]Key{}
	var mu sync.Mutex
	err := r.eachObject(ctx, append(signedPrefixes(), sessionPrefix), func(ctx context.Context, info blob.Info) error {
		c, err := r.certificateOf(ctx, info)
		if err != nil || c == nil || c.Label != name && c.Signer.String() != name || !r.trust.holds(c.Signer) {
			return err
		}
		k := keyOf(c)
		k.file.Certificate = c
		mu.Lock()
		defer mu.Unlock()
		found[k.Signer] = k
		return nil
	})
	if err != nil {
		return Key{}, nil, err
	}
	switch signers := slices.Sorted(maps.Keys(found)); len(signers) {
	case 0:
		return Key{}, nil, errors.Join(fmt.Errorf("%w: %s", ErrNoKey, name), damaged)
	case 1:
		return found[signers[0]], all, nil
	default:
		return Key{}, nil, fmt.Errorf("%w: %s: %s", ErrSigners, name, strings.Join(signers, ", "))
	}
}

// eachObject lets look have all objects under some prefixes, several at the same time.
func (r *Repository) eachObject(ctx context.Context, prefixes []string, look func(context.Context, blob.Info) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pointReaders)
	for _, prefix := range prefixes {
		infos, err := list(ctx, r.store, prefix)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		for _, info := range infos {
			g.Go(func() error { return look(ctx, info) })
		}
	}
	return g.Wait()
}

// certificateOf is the certificate at the end of an object, nil where there is none. Whoever
// has put it there, it is one that the root has signed.
func (r *Repository) certificateOf(ctx context.Context, info blob.Info) (*keys.Certificate, error) {
	n := min(info.Size, keys.MaxTrailer)
	tail, err := r.store.Read(ctx, info.Name, info.Size-n, n)
	if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrRange) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return r.ring.CertificateIn(tail), nil
}
