package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const (
	// renewEvery is how often a session says that it goes on.
	renewEvery = time.Hour
	// retireTime bounds how long a session tries to say that it is over.
	retireTime = 30 * time.Second
)

// sessionDoc is the content of a session object.
type sessionDoc struct {
	Started time.Time `json:"started"` // by the host's clock, for people
}

// fenceDoc is the content of a fence: an object in place of a restore point or an
// index object that a session, taken for dead, can then create no more.
type fenceDoc struct {
	Session sid `json:"session"`
}

// announce says that the session is under way, before it looks at anything: a mark
// that it does not see is made by who sees it.
func (s *Session) announce(ctx context.Context) error {
	s.began = s.r.now().Round(0)
	err := s.r.createJSON(ctx, s.store, wire.Session, s.sid.object(0), sessionDoc{s.began.UTC()})
	if err != nil {
		return fmt.Errorf("announce session: %w", err)
	}
	return nil
}

// renew says now and then that the session goes on. One renewal that fails is no
// harm: several are due before anyone takes it for dead.
func (s *Session) renew(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n := int(s.renewals.Add(1))
			_ = s.r.createJSON(ctx, s.store, wire.Session, s.sid.object(n), sessionDoc{s.r.now().UTC()})
		case <-s.stop:
			return
		}
	}
}

// retire says that the session is over: nothing of its own is under way any more. Nothing is
// deleted for that, which leaves hosts without any right to delete; maintenance does. When
// it fails maintenance finds out, later. A session that does not know what became of an
// object does not end: the object may come to be after all, and must find the packs that it
// needs, or a fence.
func (s *Session) retire(ctx context.Context) {
	if s.unsure.Load() || s.retired {
		return
	}
	s.retired = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retireTime)
	defer cancel()
	_ = s.r.createJSON(ctx, s.store, wire.Session, s.sid.end(), sessionDoc{s.began.UTC()})
}

// create puts an object into the store under a name that is this session's own, so
// that something there means a fence.
func (s *Session) create(ctx context.Context, object string, data []byte) error {
	err := s.store.Create(ctx, object, data)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, blob.ErrExists):
		return fmt.Errorf("store %s: %w", object, ErrFenced)
	}
	s.unsure.Store(true)
	return fmt.Errorf("store %s: %w", object, err)
}

// witnessed makes sure, last before the point, that maintenance has counted on the session.
// Whoever has deleted its announcement has made it invisible: marks that came since may be
// carried out, and take what it has built on. That takes longer than a short session lasts.
func (s *Session) witnessed(ctx context.Context) error {
	if t := s.r.now().Round(0).Sub(s.began); t >= 0 && t < renewEvery {
		return nil
	}
	m, err := s.r.readMarks(ctx, s.store, nil)
	if err != nil {
		return fmt.Errorf("read marks: %w", err)
	}
	if m.number() == s.mark {
		return nil
	}
	gone := fmt.Errorf("%w: maintenance did not see the session", ErrFenced)
	if m.done > s.mark {
		return gone
	}
	seen, there, err := s.r.sessionsAt(ctx, s.store, m.number())
	switch {
	case err != nil:
		return err
	case there && !slices.Contains(seen, s.sid):
		return gone
	case there:
		return nil
	}
	// They are listed only now.
	if _, err = s.store.Stat(ctx, s.sid.object(0)); errors.Is(err, blob.ErrNotFound) {
		err = gone
	}
	return err
}

// choose finds the parent: it is there although the session is announced, so nothing
// that it needs goes before the session does, if the marks allow that.
func (s *Session) choose(ctx context.Context) error {
	// After the session was announced: a quarantine that it does not see is made by
	// who sees it.
	if err := s.r.loadDoubts(ctx, s.store); err != nil {
		return fmt.Errorf("read notes of damage: %w", err)
	}
	m, err := s.r.refresh(ctx, s.store)
	if err != nil {
		return fmt.Errorf("read marks: %w", err)
	}
	s.mark = m.number()
	p, err := s.r.newestOf(ctx, s.store, s.vm)
	if err != nil && !passable(err) {
		return fmt.Errorf("find the point before: %w", err)
	}
	s.parent, s.damaged, s.follows = p, err, p.ID
	if p.ID == "" && !s.r.ring.CanReadMaps() {
		if s.follows, err = s.newestName(ctx); err != nil {
			return err
		}
	}
	s.trusted = p.ID != "" && m.trusts(&p, pointObject(s.r.ring.VM(s.vm), p.ID))
	return nil
}

// newestName is the id of the VM's newest point, for a key that cannot read it.
func (s *Session) newestName(ctx context.Context) (newest string, err error) {
	infos, err := listPoints(ctx, s.store, vmPrefix(s.r.ring.VM(s.vm)))
	for _, i := range infos {
		if id, ok := pointID(i.Name); ok && s.r.timelyName(i.Name, i.Created) == nil {
			newest = max(newest, id)
		}
	}
	return newest, err
}

// Parent is the newest point of the VM that could be read when the session began, or
// the zero Point, as Newest has it. Newer ones that are damaged are in the error, as with
// Points.
func (s *Session) Parent() (Point, error) { return s.parent, s.damaged }

// buildsOn tells whether root is a map of the parent that may be built on.
func (s *Session) buildsOn(root *Root) bool {
	if root == nil || !s.r.doubts.trusts(root.Node) || !s.trusted {
		return false
	}
	for own := range s.parent.roots() {
		if own == *root {
			return true
		}
	}
	return false
}

// errFence is what readPoint says of a fence.
var errFence = errors.New("a fence in place of a restore point")

// fence makes sure that a session can change nothing any more: it has committed, or it
// never will, nor make blocks known.
func (r *Repository) fence(ctx context.Context, s sid) error {
	if err := r.fencePoint(ctx, s); err != nil {
		return err
	}
	// Even where the point is there: another host may have taken its name.
	return r.fenceIndex(ctx, s)
}

// fencePoint puts a fence in the way of the session's manifest, unless something is there.
func (r *Repository) fencePoint(ctx context.Context, s sid) error {
	err := r.createJSON(ctx, r.store, wire.Fence, s.point(), fenceDoc{s})
	if errors.Is(err, blob.ErrExists) {
		return nil
	}
	return err
}

// fenceIndex puts fences in the way of the session's next index object. The session numbers
// them and stops at the first that it cannot create. Its next number is the first that is
// free, whatever somebody else has put at a later one; or, where a repair has taken one of
// its objects away, the one after the greatest.
func (r *Repository) fenceIndex(ctx context.Context, s sid) error {
	infos, err := list(ctx, r.store, indexPrefix+string(s)+".")
	if err != nil {
		return err
	}
	there, greatest := map[int]blob.Info{}, -1
	for _, i := range infos {
		if k, ok := indexNumber(i.Name); ok {
			there[k], greatest = i, max(greatest, k)
		}
	}
	free := 0
	for there[free].Name != "" {
		free++
	}
	if err := r.fenceAfter(ctx, s, there[free-1], free); err != nil || greatest < free {
		return err
	}
	return r.fenceAfter(ctx, s, there[greatest], greatest+1)
}

// fenceAfter puts a fence at the first free number from next on, unless last, the object
// before that, is one.
func (r *Repository) fenceAfter(ctx context.Context, s sid, last blob.Info, next int) error {
	if last.Name != "" && last.Size <= maxNote {
		b, err := readSized(ctx, r.store, last, maxNote)
		if err != nil || r.isFence(last, b) {
			return err
		}
	}
	for ; ; next++ {
		err := r.createJSON(ctx, r.store, wire.Fence, s.index(next), fenceDoc{s})
		if !errors.Is(err, blob.ErrExists) {
			return err
		}
	}
}

// isFence tells whether an object is a fence of this repository's making.
func (r *Repository) isFence(info blob.Info, b []byte) bool {
	if r.ring.WantPrefix(b, wire.Fence) != nil {
		return false
	}
	var doc fenceDoc
	return r.openJSON(wire.Fence, info, b, &doc) == nil
}
