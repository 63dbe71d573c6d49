package repo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// MaxSegment is what is lost at most with one segment, in bytes.
const MaxSegment = pack.MaxSegment

// Small makes o's sessions write small packs and many index objects, one upload
// at a time.
func Small(o OpenOptions) OpenOptions {
	o.limits = limits{dataPack: 2 << 20, nodePack: 2 << 20, segment: 1 << 20, uploaders: 1, index: 300}
	return o
}

// OpenEverything tries to open each pack and each restore point of the store with the
// keys at hand, in every way that there is. It returns nil as soon as one opens, else the
// last error.
func OpenEverything(ctx context.Context, r *Repository) error {
	last := errors.New("nothing to open")
	for _, prefix := range []string{packPrefix, pointPrefix} {
		infos, err := list(ctx, r.store, prefix)
		if err != nil {
			return err
		}
		for _, info := range infos {
			b, err := r.store.Read(ctx, info.Name, 0, -1)
			if err != nil {
				return err
			}
			if last = openAny(r, info.Name, b); last == nil {
				return nil
			}
		}
	}
	return last
}

func openAny(r *Repository, name string, b []byte) error {
	if prefix := pointPrefix; name[:len(prefix)] != prefix {
		_, _, err := r.ring.OpenPackKey(b[:r.ring.PackHeaderSize()])
		return err
	}
	p, err := r.ring.ParsePoint(name, b)
	if err != nil {
		return err
	}
	if _, err := r.ring.OpenPoint(p); err == nil {
		return nil
	}
	_, err = r.ring.OpenOutline(p)
	return err
}

// WalkMaps reads every node of a map.
func WalkMaps(ctx context.Context, r *Repository, root Root) error {
	w := tree.Walker{Load: r.nodes(r.store).load, Leaf: func(int64, []tree.Entry) error { return nil }}
	return w.Walk(ctx, tree.Root(root))
}

// PruneAlone prunes without a lease, as two maintainers do of which one has lost it, and
// gives up sessions that were away for so long.
func PruneAlone(ctx context.Context, r *Repository, o PruneOptions, now time.Time, away time.Duration) (PruneReport, error) {
	p := r.pruner(o)
	p.now, p.away = now, away
	err := p.run(ctx)
	if errors.Is(err, errRace) {
		err = nil
	}
	return p.report, err
}

// Announce makes a session object, signed by r's key.
func Announce(ctx context.Context, r *Repository, object string) error {
	return r.createJSON(ctx, r.store, wire.Session, object, sessionDoc{})
}

// Ended tells whether maintenance takes a session for over.
func Ended(ctx context.Context, r *Repository, object string) (bool, error) {
	all, err := r.announcedSessions(ctx, "")
	s, _, _ := cutSID(object, sessionPrefix)
	return err == nil && all[s].ended, err
}

// EndSessions says of every session that it is over, signed by r's key, through a store.
func EndSessions(ctx context.Context, r *Repository, store blob.Store) error {
	infos, err := list(ctx, store, sessionPrefix)
	if err != nil {
		return err
	}
	for _, i := range infos {
		s, _, ok := cutSID(i.Name, sessionPrefix)
		if !ok {
			continue
		}
		if err := r.createJSON(ctx, store, wire.Session, s.end(), sessionDoc{}); err != nil && !errors.Is(err, blob.ErrExists) {
			return err
		}
	}
	return nil
}

// GarbagePoint makes an object of a point that r's key has signed and that says nothing.
func GarbagePoint(ctx context.Context, r *Repository, object string) error {
	b, err := r.ring.SealPoint(object, []byte("garbage"), []byte("garbage"))
	if err != nil {
		return err
	}
	return r.store.Create(ctx, object, b)
}

// CopyIndex lists again, signed by r's key, what an index object lists.
func CopyIndex(ctx context.Context, r *Repository, object, as string) error {
	info, err := r.store.Stat(ctx, object)
	if err != nil {
		return err
	}
	packs, err := r.readIndex(ctx, r.store, info)
	if err != nil {
		return err
	}
	b, err := pack.SealIndex(r.ring, as, packs)
	if err != nil {
		return err
	}
	return r.store.Create(ctx, as, b)
}

// ListUpTo lists at most so many objects.
func ListUpTo(ctx context.Context, store blob.Store, prefix string, limit int) ([]blob.Info, error) {
	return listUpTo(ctx, store, prefix, limit)
}

// Poison does what a host does that was taken over: it puts other content under the names
// of the disk's blocks into packs of its own, and lists them.
func Poison(ctx context.Context, r *Repository, disk []byte, at time.Time) error {
	s, err := r.Begin(ctx, "lab/evil", at)
	if err != nil {
		return err
	}
	defer s.Close()
	var work leafWork
	work.name(r, disk)
	seg := s.data.take()
	for i := range work.entries {
		start, end := work.entries[i].Range(len(disk))
		wrong := bytes.Repeat([]byte{0x66}, end-start)
		if err := s.data.add(ctx, seg, work.entries[i].Name, wrong); err != nil {
			return err
		}
	}
	s.data.give(seg)
	return s.flush(ctx)
}

// PoisonNode does the same with a map node.
func PoisonNode(ctx context.Context, r *Repository, name block.Name, at time.Time) error {
	s, err := r.Begin(ctx, "lab/evil", at)
	if err != nil {
		return err
	}
	defer s.Close()
	seg := s.nodes.take()
	if err := s.nodes.add(ctx, seg, name, bytes.Repeat([]byte{0x66}, 100)); err != nil {
		return err
	}
	s.nodes.give(seg)
	return s.flush(ctx)
}

// Forgery is a document of a kind, signed by r's key, whatever that may sign.
func Forgery(ctx context.Context, r *Repository, kind byte, folder string, plain []byte) error {
	return r.createNamed(ctx, wire.Kind(kind), folder, plain)
}

// Bury says that points are forgotten, as it was said before tombstones told which points
// those had named, and deletes them.
func Bury(ctx context.Context, r *Repository, points ...Point) error {
	var all []burial
	for i := range points {
		all = append(all, burial{Head: r.headOf(&points[i])})
	}
	if err := r.entomb(ctx, tombstone{Points: all}); err != nil {
		return err
	}
	for _, h := range all {
		if err := r.store.Delete(ctx, pointPrefix+h.Point); err != nil {
			return err
		}
	}
	return nil
}

// BuriedHeads is how many heads the tombstones name; -1 when they cannot be read.
func BuriedHeads(ctx context.Context, r *Repository) (n int) {
	all, err := r.forgotten(ctx)
	if err != nil {
		return -1
	}
	for _, g := range all {
		n += max(0, len(g.links)-1) // the parent is the first
	}
	return n
}

// HashOf is the hash that points are chained by.
func HashOf(b []byte) Hash { return sum(b) }

// Renew says once that a session, and a lease of maintenance, go on.
func Renew(ctx context.Context, s *Session) error {
	l := lease{r: s.r, prefix: leasePrefix + "prune/", n: 1}
	return errors.Join(l.create(ctx, ".1"),
		s.r.createJSON(ctx, s.r.store, wire.Session, s.sid.object(int(s.renewals.Add(1))), sessionDoc{s.r.now().UTC()}))
}

// TakeLease makes an object of a lease, signed by r's key: "" takes it, others renew it or give
// it back.
func TakeLease(ctx context.Context, r *Repository, n int, suffix string) error {
	l := lease{r: r, prefix: leasePrefix + "prune/", n: n}
	return l.create(ctx, suffix)
}

// Doubts is how many objects this host takes for damaged.
func (r *Repository) Doubts() int { return r.doubts.size() }

// RemoveKeyWithRoom removes a key with a record that has room for so many objects.
func RemoveKeyWithRoom(ctx context.Context, r *Repository, label string, room int) (Key, error) {
	return r.removeKey(ctx, label, room)
}

// Unsigned makes objects that bear the certificate of a key, and no signature of it.
func Unsigned(ctx context.Context, r *Repository, n int) error {
	for i := range n {
		object := r.ring.AppendCertificate([]byte{byte(i), byte(i >> 8)})
		object = append(object, make([]byte, keys.SignatureSize)...)
		if err := r.store.Create(ctx, forgottenPrefix+Hash(sum(object)).String(), object); err != nil {
			return err
		}
	}
	return nil
}

// RemoveKeyAsBefore removes a key with a record of the kind that does not tell what the key
// had signed.
func RemoveKeyAsBefore(ctx context.Context, r *Repository, label string) error {
	k, _, err := r.findKey(ctx, label)
	if err != nil {
		return err
	}
	plain, err := json.Marshal(map[string]any{"certificate": k.file.Certificate.Bytes()})
	if err != nil {
		return err
	}
	return r.createNamed(ctx, wire.Revocation, revokedPrefix, plain)
}

// Lie makes a point that says of others what it is told to say.
func Lie(ctx context.Context, r *Repository, p Point, at time.Time) error {
	p.VM = cmp.Or(p.VM, "lab/evil")
	s, err := r.Begin(ctx, p.VM, at)
	if err != nil {
		return err
	}
	defer s.Close()
	p.ID, p.Frozen = s.id, at
	object := s.sid.point()
	sealed, err := r.sealPoint(object, &p)
	if err != nil {
		return err
	}
	return r.store.Create(ctx, object, sealed)
}
