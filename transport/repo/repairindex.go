package repo

import (
	"context"
	"errors"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// A fence stands at the number of an index object that its session would come to next. So a
// repair that takes index objects away must not hide how far a session has come that may go
// on, nor take away the fence.

// stopWriter fences the session of an index object that is to be deleted, unless it is over.
func (p *repairer) stopWriter(ctx context.Context, object string) error {
	s, _, ok := cutSID(object, indexPrefix)
	if !ok || s == p.session.sid {
		return nil
	}
	all, err := p.c.r.announcedSessions(ctx, s)
	if err != nil || all[s] == nil || all[s].ended {
		return err
	}
	return p.c.r.fence(ctx, s)
}

// keepFenced puts a fence where an index object was that nobody could read, if that may have
// been one: its session was given up.
func (p *repairer) keepFenced(ctx context.Context, object string) error {
	s, _, ok := cutSID(object, indexPrefix)
	if !ok {
		return nil
	}
	r := p.c.r
	info, err := r.store.Stat(ctx, s.point())
	if errors.Is(err, blob.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := r.readPoint(ctx, r.store, info); !errors.Is(err, errFence) {
		if passable(err) {
			err = nil
		}
		return err
	}
	err = r.createJSON(ctx, r.store, wire.Fence, object, fenceDoc{s})
	if errors.Is(err, blob.ErrExists) {
		return nil
	}
	return err
}
