package repo

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// announced is a session as the store shows it.
type announced struct {
	first, last time.Time // by the store: when it was announced, when it was heard of last
	objects     []string  // in the order to delete them: the end goes last
	// ended says so in the words of the key that has announced the session: from then on
	// it makes nothing any more. Who does not hold that key can end no other's session.
	ended bool
}

// announcedSessions lists the sessions that were announced, those that have ended too: one,
// or all for "".
func (r *Repository) announcedSessions(ctx context.Context, one sid) (map[sid]*announced, error) {
	prefix := sessionPrefix + string(one)
	infos, err := list(ctx, r.store, prefix)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(infos, func(a, b blob.Info) int { return cmp.Compare(a.Name, b.Name) })
	all := map[sid]*announced{}
	for _, i := range infos {
		if s, _, ok := cutSID(i.Name, sessionPrefix); ok {
			all[s] = all[s].with(i)
		}
	}
	there := listedOf(infos)
	for _, s := range slices.Sorted(maps.Keys(all)) {
		end, ok := there[s.end()]
		if !ok {
			continue
		}
		if all[s].ended, err = r.endedBy(ctx, there[s.object(0)], end); err != nil {
			return nil, err
		}
	}
	return all, r.overwritten(ctx, prefix, all)
}

func (a *announced) with(i blob.Info) *announced {
	if a == nil {
		a = &announced{first: i.Created, last: i.Created}
	}
	if i.Created.Before(a.first) {
		a.first = i.Created
	}
	if i.Created.After(a.last) {
		a.last = i.Created
	}
	a.objects = append(a.objects, i.Name)
	return a
}

// endedBy tells whether the end of a session is signed by the key that has announced it. An
// end without an announcement is what a maintainer that crashed has left.
func (r *Repository) endedBy(ctx context.Context, start, end blob.Info) (bool, error) {
	if start.Name == "" {
		return true, nil
	}
	var signers [2]keys.Signer
	for k, info := range []blob.Info{start, end} {
		by, err := r.announcer(ctx, info)
		if err != nil {
			if passable(err) {
				err = nil // on the word of nobody it has not ended
			}
			return false, err
		}
		signers[k] = by
	}
	return signers[0] == signers[1], nil
}

// announcer is the key that has signed an object of a session.
func (r *Repository) announcer(ctx context.Context, info blob.Info) (keys.Signer, error) {
	b, by, err := r.openSession(ctx, info)
	if err == nil {
		err = r.trust.allows(by, signersOf(wire.Session), info, b)
	}
	if err != nil {
		return keys.Signer{}, objectErr(info.Name, err)
	}
	return by.Signer, nil
}

// openSession reads an object of a session, of a key that may make one, or could until it was
// removed.
func (r *Repository) openSession(ctx context.Context, info blob.Info) (b []byte, by *keys.Certificate, err error) {
	if b, err = readSized(ctx, r.store, info, maxNote); err != nil {
		return nil, nil, err
	}
	if _, by, err = r.ring.OpenDocument(wire.Session, info.Name, b); err != nil {
		return nil, nil, err
	}
	return b, by, mayMake(by, signersOf(wire.Session))
}

// overwritten takes for under way, whatever is said of its end, a session of which the
// store keeps an object that somebody has deleted or written over by other means than lull.
func (r *Repository) overwritten(ctx context.Context, prefix string, all map[sid]*announced) error {
	err := blob.HiddenOf(ctx, r.store, prefix, func(h blob.Hidden) error {
		if s, _, ok := cutSID(h.Name, sessionPrefix); ok {
			a := all[s].with(blob.Info{Name: h.Name, Created: h.Created})
			a.ended, all[s] = false, a
		}
		return nil
	})
	if errors.Is(err, blob.ErrNoVersions) || errors.Is(err, blob.ErrDenied) {
		return nil
	}
	return err
}

// underWay are the sessions that have not ended.
func underWay(all map[sid]*announced) map[sid]*announced {
	going := map[sid]*announced{}
	for s, a := range all {
		if !a.ended {
			going[s] = a
		}
	}
	return going
}
