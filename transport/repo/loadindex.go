package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// openIndex opens the index cache and adds what the store has and it has not.
func (r *Repository) openIndex(ctx context.Context, cache string) error {
	x, err := index.Open(cache)
	if err != nil {
		return err
	}
	r.index = x
	if err := r.syncIndex(ctx, r.store, r.known.marks, x.Reconcile); err != nil {
		return errors.Join(err, x.Close())
	}
	return nil
}

// find looks a block up. What is not there may be in an index object that another
// host has written since the repository was opened.
func (r *Repository) find(ctx context.Context, name block.Name) (index.Location, error) {
	loc, ok, err := r.lookup(ctx, name)
	if ok || err != nil {
		return loc, err
	}
	if err := r.catchUp(ctx); err != nil {
		return loc, err
	}
	loc, ok, err = r.lookup(ctx, name)
	if !ok && err == nil {
		err = noBlock(name)
		// Where maintenance has deleted packs meanwhile, the point that is read may have
		// been forgotten: that is no damage.
		if !r.pruned() {
			r.doubt(err)
		}
	}
	return loc, err
}

// follows tells of a pack that could not be read for a block whether that is because
// maintenance has removed it: the index has followed then, and knows where the block is now,
// if anywhere.
func (r *Repository) follows(ctx context.Context, name block.Name, pack [32]byte, why error) (bool, error) {
	if !errors.Is(why, blob.ErrNotFound) {
		return false, nil
	}
	if err := r.catchUp(ctx); err != nil {
		return false, err
	}
	loc, ok, err := r.lookup(ctx, name)
	return err == nil && (!ok && r.pruned() || ok && loc.Pack != pack), err
}

func (r *Repository) lookup(ctx context.Context, name block.Name) (loc index.Location, ok bool, err error) {
	err = r.mending(ctx, func() error {
		loc, ok, err = r.index.Lookup(name)
		return err
	})
	return loc, ok, err
}

// maxMends bounds how often one look-up may meet damage in the cache.
const maxMends = 4

// mending looks blocks up in the index. When a part of the cache proves to be
// damaged, the index has thrown it away: it is read from the store again, and look
// runs once more.
func (r *Repository) mending(ctx context.Context, look func() error) error {
	for mends := 0; ; mends++ {
		err := look()
		if !errors.Is(err, index.ErrDamaged) || mends == maxMends {
			return err
		}
		if err := r.catchUp(ctx); err != nil {
			return err
		}
	}
}

// noBlock says that no index object lists a block.
func noBlock(name block.Name) error {
	return objectErr(indexPrefix, fmt.Errorf("%w: block %s is in no index object", wire.ErrDamaged, name))
}

// catchUp adds the index objects that came since the index was read last.
func (r *Repository) catchUp(ctx context.Context) error {
	m, err := r.refresh(ctx, r.store)
	if err != nil {
		return err
	}
	r.syncing.Lock()
	defer r.syncing.Unlock()
	return r.syncIndex(ctx, r.store, m, r.index.Missing)
}

// syncIndex adds the entries of the index objects that missing picks from all.
func (r *Repository) syncIndex(ctx context.Context, store blob.Store, m *marks,
	missing func(all []index.Source) ([]index.Source, error),
) error {
	infos, present, err := listIndex(ctx, store, m)
	if err != nil {
		return err
	}
	names := slices.Clone(present)
	for _, id := range present {
		names = append(names, rebuilt(id, m))
	}
	missed, err := missing(names)
	if err != nil {
		return err
	}
	absent := make(map[index.Source]bool, len(missed))
	for _, id := range missed {
		absent[id] = true
	}
	load := r.index.Loader()
	defer load.Close()
	var damaged []index.Source
	for _, id := range present {
		if !absent[id] || !absent[rebuilt(id, m)] {
			continue
		}
		packs, err := r.readIndex(ctx, store, infos[id])
		if passable(err) {
			damaged = append(damaged, rebuilt(id, m))
			continue
		}
		if err == nil {
			err = load.Add(ctx, id, entriesOf(r.ring, packs))
		}
		if err != nil {
			return err
		}
	}
	if err := load.Flush(ctx); err != nil {
		return err
	}
	return rebuild(ctx, store, r.ring, r.index, damaged, m)
}

// rebuilt is what the index calls that which it holds in place of a damaged index
// object: packs that the next decision of maintenance may remove.
func rebuilt(id index.Source, m *marks) index.Source {
	return sum(binary.BigEndian.AppendUint64(id[:], m.done))
}

// listIndex lists the index objects that count, by what the index calls them.
func listIndex(ctx context.Context, store blob.Store, m *marks) (map[index.Source]blob.Info, []index.Source, error) {
	all, err := list(ctx, store, indexPrefix)
	if err != nil {
		return nil, nil, err
	}
	infos := make(map[index.Source]blob.Info, len(all))
	ids := make([]index.Source, 0, len(all))
	for _, i := range all {
		if id := sourceOf(i.Name); m.counts(i.Name) {
			infos[id] = i
			ids = append(ids, id)
		}
	}
	return infos, ids, nil
}

// readIndex reads an index object; a fence lists nothing. What a key that only backs up lists of
// packs that are not its own is passed over: a host that was taken over can keep what others
// had listed, and list it again when maintenance has long deleted the packs.
func (r *Repository) readIndex(ctx context.Context, store blob.Store, info blob.Info) ([]pack.Listing, error) {
	b, err := readSized(ctx, store, info, pack.MaxIndex)
	if err != nil {
		return nil, objectErr(info.Name, err)
	}
	if want, ok := sumOf(info.Name); ok && sum(b) != want {
		return nil, objectErr(info.Name, fmt.Errorf("%w: content does not match the name", wire.ErrDamaged))
	}
	if r.isFence(info, b) {
		return nil, nil
	}
	packs, by, err := pack.OpenIndex(r.ring, info.Name, b)
	if err != nil {
		return nil, objectErr(info.Name, err)
	}
	if by == nil || by.Roles.Has(RoleMaintain) {
		return packs, nil
	}
	own := by.Bytes()
	return slices.DeleteFunc(packs, func(l pack.Listing) bool { return !bytes.Equal(l.Certificate, own) }), nil
}

// rebuild reads the directories of all packs in place of damaged index objects, but for
// those that maintenance is deleting. Check reports those objects; the backups that they
// listed can be read all the same.
func rebuild(ctx context.Context, store blob.Store, ring *keys.Ring, x *index.Index, damaged []index.Source, m *marks) error {
	if len(damaged) == 0 {
		return nil
	}
	packs, err := list(ctx, store, packPrefix)
	if err != nil {
		return err
	}
	gone := m.gone()
	packs = slices.DeleteFunc(packs, func(i blob.Info) bool { return gone[i.Name] })
	for i, id := range damaged {
		if i > 0 {
			packs = nil // the first one holds all
		}
		if err := x.Add(ctx, id, directories(ctx, store, ring, packs)); err != nil {
			return fmt.Errorf("rebuild index: %w", err)
		}
	}
	return nil
}

// directories yields every block of the packs whose directories can be read.
func directories(ctx context.Context, store blob.Store, ring *keys.Ring, packs []blob.Info) iter.Seq2[index.Entry, error] {
	return func(yield func(index.Entry, error) bool) {
		for _, p := range packs {
			l, err := readDirectory(ctx, store, ring, p)
			if passable(err) {
				continue
			}
			if err != nil {
				yield(index.Entry{}, err)
				return
			}
			for e := range entries(ring, &l) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// readDirectory reads the directory of a pack from its end.
func readDirectory(ctx context.Context, store blob.Store, ring *keys.Ring, p blob.Info) (pack.Listing, error) {
	name, ok := sumOf(p.Name)
	if !ok || packObject(name) != p.Name {
		return pack.Listing{}, objectErr(p.Name, fmt.Errorf("%w: no name of a pack", wire.ErrDamaged))
	}
	for length := min(p.Size, pack.Tail); ; {
		tail, err := store.Read(ctx, p.Name, p.Size-length, length)
		if err != nil {
			return pack.Listing{}, objectErr(p.Name, err)
		}
		l, need, err := pack.OpenDirectory(ring, tail, p.Size)
		if err != nil || need == 0 {
			l.Pack = name
			return l, objectErr(p.Name, err)
		}
		length = int64(need)
	}
}

// entriesOf yields every block of some packs.
func entriesOf(ring *keys.Ring, packs []pack.Listing) iter.Seq2[index.Entry, error] {
	return func(yield func(index.Entry, error) bool) {
		for i := range packs {
			for e := range entries(ring, &packs[i]) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// signerOf is the key on whose word a pack holds what is listed; zero for nobody's.
func signerOf(ring *keys.Ring, l *pack.Listing) keys.Signer {
	c, err := l.Verify(ring)
	if err != nil || c == nil || !c.Roles.Has(RoleBackup|RoleMaintain) {
		return keys.Signer{}
	}
	return c.Signer
}

// entries yields every block of a pack.
func entries(ring *keys.Ring, l *pack.Listing) iter.Seq[index.Entry] {
	return func(yield func(index.Entry) bool) {
		signer := signerOf(ring, l)
		for i := range l.Directory {
			s := &l.Directory[i]
			e := index.Entry{Location: index.Location{Pack: l.Pack, Signer: signer, SegmentOffset: s.Offset, SegmentLength: s.Length}}
			for _, b := range s.Blocks {
				e.Name, e.BlockLength = b.Name, b.Length
				if !yield(e) {
					return
				}
				e.BlockOffset += b.Length
			}
		}
	}
}
