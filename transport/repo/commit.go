package repo

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/transport/repo/internal/tree"
)

const idTime = "20060102T150405Z"

// Commit makes the restore point: it flushes the packs, writes the index and,
// last and only if its name is free, the manifest. It fills the point's ID, Parent
// (when empty: the session's) and Stats (but for Read, when it is set; the
// manifest itself is not counted). On an error there is no new point, but for one
// case: when the store did not answer to the last request, the point may be there.
func (s *Session) Commit(ctx context.Context, p Point) (Point, error) {
	if err := s.commit(ctx, &p); err != nil {
		s.fail(err)
		return Point{}, fmt.Errorf("commit restore point of %s: %w", p.VM, err)
	}
	s.fail(errClosed)
	s.retire(ctx)
	return p, nil
}

func (s *Session) commit(ctx context.Context, p *Point) error {
	if p.VM != s.vm {
		return fmt.Errorf("the session is for %s", s.vm)
	}
	if err := checkPoint(p); err != nil {
		return err
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	if p.Frozen.IsZero() {
		p.Frozen = s.r.now()
	}
	p.Frozen = p.Frozen.UTC()
	p.ID = s.id
	if p.Parent == "" {
		p.Parent = s.follows
	}
	p.Mark = s.mark
	if err := s.link(ctx, s.r.ring.VM(p.VM), p); err != nil {
		return err
	}
	read := p.Stats.Read // the caller knows what it read of a window; Put does not
	p.Stats = s.Stats()
	if read > 0 {
		p.Stats.Read = read
	}
	if err := s.witnessed(ctx); err != nil {
		return err
	}
	object := s.sid.point()
	sealed, err := s.r.sealPoint(object, p)
	if err != nil {
		return err
	}
	if err := s.create(ctx, object, sealed); err != nil {
		return err
	}
	p.Hash = sum(sealed)
	s.r.committed(ctx, s.keep, p)
	return nil
}

// link chains a point to its parent, to the points of other VMs, and to the host's own last
// of this VM.
func (s *Session) link(ctx context.Context, vm [16]byte, p *Point) (err error) {
	p.SignedBy, p.Signer, p.Believed = s.r.Label(), s.r.signer(), true
	p.Deduplicated, p.Removed = s.r.domain.String(), s.removed
	p.Heads = s.r.memory.heads(hex.EncodeToString(vm[:]), p.Parent)
	p.Heads = p.Heads[:min(len(p.Heads), maxHeads)]
	if p.Parent == "" {
		return nil
	}
	p.ParentHash, err = s.r.parentHash(ctx, s.store, pointObject(vm, p.Parent))
	return err
}

// committed takes down on this host that a point is there now. That its maps cannot be
// kept is no error, for there is a point: the next backup reads the disks in full.
func (r *Repository) committed(ctx context.Context, keep *keeper, p *Point) {
	r.adopt(p, r.ring.Certificate())
	r.memory.see(true, r.headOf(p))
	_ = keep.commit(ctx, p)
}

func checkPoint(p *Point) error {
	for root := range p.roots() {
		if err := tree.Root(root).Check(); err != nil {
			return err
		}
	}
	return nil
}

// flush waits until every block of the session is in the store and in an index
// object. No Put may follow.
func (s *Session) flush(ctx context.Context) error {
	if err := s.alive(ctx); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		s.fail(context.Cause(ctx))
		s.cancel()
	})
	defer stop()
	if err := errors.Join(s.data.flush(ctx), s.nodes.flush(ctx)); err != nil {
		return err
	}
	s.end()
	if err := s.alive(ctx); err != nil {
		return err
	}
	s.listing.mu.Lock()
	defer s.listing.mu.Unlock()
	return s.writeIndex(ctx)
}

// newPointID names a point: the second, its fraction in 1/65536, so that ids sort by
// time, and two random bytes. A clock that tells whole seconds only makes it four.
func newPointID(at time.Time) string {
	var tail [4]byte
	rand.Read(tail[:])
	if ns := at.Nanosecond(); ns > 0 {
		binary.BigEndian.PutUint16(tail[:], uint16(ns<<16/1e9))
	}
	return at.UTC().Format(idTime) + "-" + hex.EncodeToString(tail[:])
}

// sealPoint makes the object of a restore point.
func (r *Repository) sealPoint(object string, p *Point) ([]byte, error) {
	doc, err := encodeDocument(p)
	if err != nil {
		return nil, err
	}
	outline, err := encodeDocument(outlineOf(p))
	if err != nil {
		return nil, err
	}
	return r.ring.SealPoint(object, outline, doc)
}

// encodeDocument is JSON, compressed.
func encodeDocument(v any) ([]byte, error) {
	doc, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode restore point: %w", err)
	}
	if len(doc) > maxDocument {
		return nil, fmt.Errorf("encode restore point: %d bytes of JSON, at most %d allowed", len(doc), maxDocument)
	}
	packed, err := compress(doc)
	if err != nil {
		return nil, fmt.Errorf("encode restore point: %w", err)
	}
	if most := mostDocument(len(packed)); len(doc) > most { // nobody would read it
		return nil, fmt.Errorf("encode restore point: %d bytes of JSON in %d, at most %d allowed", len(doc), len(packed), most)
	}
	return packed, nil
}
