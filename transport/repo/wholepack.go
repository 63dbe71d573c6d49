package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// wholePack is a pack in memory, and what of it can be read.
type wholePack struct {
	r     *Repository
	name  [32]byte
	bytes []byte
	list  pack.Listing
	key   *keys.PackKey // nil: the key that opened the repository may not read it
	namer block.Namer

	unpacked []byte
}

// readWhole proves one pack: its name, and that every block opens to what the
// directory says, which it returns. Where something is wrong, the damage says which
// segments are lost with it, by the pack's own directory or else by what an index
// object says (listed, which may be nil).
func (r *Repository) readWhole(ctx context.Context, info blob.Info, listed *pack.Listing) (pack.Listing, *damage, error) {
	w, wrong, err := r.openWhole(ctx, info, listed)
	if err != nil {
		return pack.Listing{}, nil, err
	}
	if w == nil {
		return pack.Listing{}, &damage{all: true}, wrong
	}
	d := &damage{segments: map[uint32]bool{}}
	if w.key == nil {
		if wrong == nil {
			d = nil
		}
		return w.list, d, wrong
	}
	for i := range w.list.Directory {
		if _, err := w.segment(i); err != nil {
			d.segments[w.list.Directory[i].Offset] = true
			wrong = first(wrong, err)
		}
	}
	if wrong == nil {
		return w.list, nil, nil
	}
	if len(d.segments) > 0 {
		wrong = fmt.Errorf("%w (%d of %d segments cannot be read)", wrong, len(d.segments), len(w.list.Directory))
	}
	return w.list, d, wrong
}

// openWhole reads a pack into memory, as far as it is there. wrong is what is wrong
// with it; nil comes for the pack when nothing of it can be opened.
func (r *Repository) openWhole(ctx context.Context, info blob.Info, listed *pack.Listing) (w *wholePack, wrong, err error) {
	b, err := readSized(ctx, r.store, info, pack.MaxPack)
	if err := objectErr(info.Name, err); err != nil {
		if passable(err) {
			return nil, err, nil
		}
		return nil, nil, err
	}
	name, ok := sumOf(info.Name)
	if !ok || pack.Name(r.ring, b) != name {
		wrong = fmt.Errorf("%w: content does not match the name", wire.ErrDamaged)
	}
	w = &wholePack{r: r, name: name, bytes: b, unpacked: make([]byte, 0, pack.MaxSegment)}
	opened, err := w.open(info, listed)
	if wrong = first(wrong, err); !opened {
		return nil, wrong, nil
	}
	return w, wrong, nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// open finds the directory and the key, or fails, and says what is wrong all the same.
func (w *wholePack) open(info blob.Info, listed *pack.Listing) (opened bool, wrong error) {
	l, _, err := pack.OpenDirectory(w.r.ring, w.bytes, int64(len(w.bytes)))
	if l.Pack = w.name; err == nil {
		wrong = w.r.believe(&l)
	} else if wrong = err; listed != nil {
		l = *listed
	} else {
		return false, wrong
	}
	w.list = l
	header := w.r.ring.PackHeaderSize()
	if len(w.bytes) < header {
		return false, first(wrong, fmt.Errorf("%w: pack of %d bytes", wire.ErrDamaged, len(w.bytes)))
	}
	key, kind, err := w.r.ring.OpenPackKey(w.bytes[:header])
	if errors.Is(err, ErrRole) || errors.Is(err, keys.ErrRole) {
		return true, wrong
	}
	if err == nil && kind != l.Kind {
		err = fmt.Errorf("%w: starts as %q and ends as %q", wire.ErrDamaged, rune(kind), rune(l.Kind))
	}
	if err != nil {
		return false, first(wrong, err)
	}
	w.key, w.namer = key, w.r.ring.Data
	if kind == wire.NodePack {
		w.namer = w.r.ring.Nodes
	}
	return true, wrong
}

// believe proves that a pack was made by a key that may make packs. When a key was
// removed does not matter: no session builds on what it made, and what is read of it is
// compared with its name.
func (r *Repository) believe(l *pack.Listing) error {
	c, err := l.Verify(r.ring)
	if err != nil {
		return err
	}
	return mayMake(c, RoleBackup|RoleMaintain)
}

// segment opens a segment, verified block by block, whose bytes are good until the
// next one is opened.
func (w *wholePack) segment(i int) ([]byte, error) {
	s := &w.list.Directory[i]
	if int64(s.Offset)+int64(s.Length) > int64(len(w.bytes)) {
		return nil, fmt.Errorf("%w: segment at %d is cut off", wire.ErrDamaged, s.Offset)
	}
	sealed := w.bytes[s.Offset:][:s.Length]
	packed, err := w.key.Open(sealed[:0:len(sealed)], s.Offset, sealed)
	if err != nil {
		return nil, err
	}
	// Never what Unpack returned: that may be a part of bytes, with segments behind
	// it that are still to be opened.
	plain, err := w.r.codec.Unpack(w.unpacked, packed)
	if err != nil {
		return nil, err
	}
	return plain, s.Verify(plain, w.namer)
}
