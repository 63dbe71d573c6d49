package repo

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// maxRewrite bounds the packs that one prune rewrites; the rest waits for the next.
const maxRewrite = 1024

// maintenance is the VM that the sessions of maintenance are of: no VM has such a name.
const maintenance = "\x00maintenance"

// rewrite puts what is needed of some packs into new ones, and returns those that it did so
// for: they may be marked, with another copy of everything in them. It is a session that
// makes no point. Who may not read disk data rewrites none.
func (p *pruner) rewrite(ctx context.Context, thin [][32]byte) (done [][32]byte, err error) {
	if len(thin) == 0 || !p.r.ring.CanRead() {
		return nil, nil
	}
	s, err := p.r.begin(ctx, maintenance, newPointID(p.r.now()))
	if err != nil {
		return nil, fmt.Errorf("rewrite packs: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var damaged []error
	for _, name := range thin[:min(len(thin), maxRewrite)] {
		err := objectErr(packObject(name), p.rewriteOne(ctx, s, name))
		switch {
		case passable(err):
			damaged = append(damaged, err) // it stays as it is
		case err != nil:
			return nil, fmt.Errorf("rewrite pack %s: %w", packObject(name), err)
		default:
			done = append(done, name)
		}
	}
	if err := s.flush(ctx); err != nil {
		return nil, fmt.Errorf("rewrite packs: %w", err)
	}
	for _, err := range damaged {
		p.r.doubt(err)
	}
	p.report.Rewritten = len(done)
	return done, nil
}

// rewriteOne puts what is needed of one pack into the session's.
func (p *pruner) rewriteOne(ctx context.Context, s *Session, name [32]byte) error {
	l, err := readDirectory(ctx, p.r.store, p.r.ring, p.survey.packs[name].info)
	if err != nil {
		return err
	}
	lane, namer := &s.data, p.r.ring.Data
	if l.Kind == wire.NodePack {
		lane, namer = &s.nodes, p.r.ring.Nodes
	}
	out := lane.take()
	defer lane.give(out)
	for i := range l.Directory {
		seg := &l.Directory[i]
		needed, err := p.survey.needed(seg)
		if err != nil {
			return err
		}
		if needed == nil {
			continue
		}
		plain, err := p.r.readSegment(ctx, p.r.store, index.Location{Pack: name, SegmentOffset: seg.Offset, SegmentLength: seg.Length})
		if err != nil {
			return err
		}
		if err := seg.Verify(plain, namer); err != nil {
			return err
		}
		if err := p.move(ctx, lane, out, seg, needed, plain); err != nil {
			return err
		}
	}
	return nil
}

// needed tells of each block of a segment whether it is; nil: none.
func (s *survey) needed(seg *pack.Segment) (needed []bool, err error) {
	for i := range seg.Blocks {
		slot, ok, err := s.view.Slot(seg.Blocks[i].Name)
		if err != nil {
			return nil, err
		}
		if ok && s.bits[slot/64]&(1<<(slot%64)) != 0 {
			if needed == nil {
				needed = make([]bool, len(seg.Blocks))
			}
			needed[i] = true
		}
	}
	return needed, nil
}

func (p *pruner) move(ctx context.Context, l *lane, out *segment, seg *pack.Segment, needed []bool, plain []byte) error {
	at := uint32(0)
	for i := range seg.Blocks {
		b := &seg.Blocks[i]
		data := plain[at : at+b.Length]
		at += b.Length
		if !needed[i] || !l.s.claims.claim(b.Name) {
			continue
		}
		atomic.AddInt64(&p.report.Moved, int64(len(data)))
		if err := l.add(ctx, out, b.Name, data); err != nil {
			return err
		}
	}
	return nil
}
