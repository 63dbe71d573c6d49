package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
)

// ErrSigners: several keys had a label, and only one of them is meant.
var ErrSigners = errors.New("several keys had that label")

// SignedPoint is a restore point by its signature, whether it can be read or not.
type SignedPoint struct {
	Point // its outline, and who signed it; of one that cannot be read only ID, and SignedBy
	// Damaged is why it cannot be read.
	Damaged error
	// Held says that it is held, and by whom.
	Held *Held
	// Only says that with those of the same key no restore point of its VM would be left.
	Only bool

	info blob.Info
}

// SignedBy are the restore points that a key has signed, of some VMs or of all, by VM and
// oldest first: those too that cannot be read, or are refused. key is a label, or what
// verifies its signatures (Key.Signer). ErrNoKey when it has signed none; ErrSigners when
// more than one key of that label has.
func (r *Repository) SignedBy(ctx context.Context, key string, vms ...string) ([]SignedPoint, error) {
	if err := r.mayList(); err != nil {
		return nil, err
	}
	held, err := r.Holds(ctx)
	if err != nil {
		return nil, err
	}
	prefixes := []string{pointPrefix}
	if len(vms) > 0 {
		prefixes = nil
		for _, vm := range vms {
			prefixes = append(prefixes, vmPrefix(r.ring.VM(vm)))
		}
	}
	s := signedSearch{r: r, key: key, held: held, others: map[string]bool{}}
	for _, prefix := range prefixes {
		infos, err := listPoints(ctx, r.store, prefix)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(infos, func(a, b blob.Info) int { return strings.Compare(a.Name, b.Name) })
		for _, info := range infos {
			if err := s.look(ctx, info); err != nil {
				return nil, err
			}
		}
	}
	return s.result()
}

// signedSearch looks for points of one key.
type signedSearch struct {
	r       *Repository
	key     string
	held    map[string]Held
	found   []SignedPoint
	signers []keys.Signer
	others  map[string]bool // VMs that have points of other keys, by their names in the store
}

// look looks at the object of a point. Who reads only what is signed needs not be able to
// open it.
func (s *signedSearch) look(ctx context.Context, info blob.Info) error {
	b, err := readSized(ctx, s.r.store, info, maxManifest)
	if errors.Is(err, blob.ErrNotFound) || passable(objectErr(info.Name, err)) {
		return nil // gone meanwhile, or too large for anybody's
	}
	if err != nil {
		return err
	}
	sealed, err := s.r.ring.ParsePoint(info.Name, b)
	if err != nil || sealed.Signer == nil {
		return nil // a fence, or garbage
	}
	if sealed.Signer.Label != s.key && sealed.Signer.Signer.String() != s.key {
		s.other(info, b, sealed)
		return nil
	}
	p, err := s.r.openSealed(info, b, sealed)
	if !slices.Contains(s.signers, sealed.Signer.Signer) {
		s.signers = append(s.signers, sealed.Signer.Signer)
	}
	found := SignedPoint{Point: short(&p), info: info, Damaged: objectErr(info.Name, err)}
	if err != nil {
		found.ID, _ = pointID(info.Name)
		found.SignedBy = sealed.Signer.Label
	}
	if h, is := s.held[found.ID]; is {
		found.Held = &h
	}
	s.found = append(s.found, found)
	return nil
}

// short is the outline of a point, with who signed it: the rest of thousands is not held in
// memory.
func short(p *Point) Point {
	o := outlineOf(p)
	s := o.point()
	s.SignedBy, s.Hash = p.SignedBy, p.Hash
	return s
}

func vmOfObject(object string) string {
	return Head{Point: strings.TrimPrefix(object, pointPrefix)}.vmOf()
}

// other takes down a point of another key, if it can be read: one of each VM is enough.
func (s *signedSearch) other(info blob.Info, b []byte, sealed *keys.SealedPoint) {
	vm := vmOfObject(info.Name)
	if s.others[vm] {
		return
	}
	if _, err := s.r.openSealed(info, b, sealed); err == nil {
		s.others[vm] = true
	}
}

func (s *signedSearch) result() ([]SignedPoint, error) {
	if len(s.found) == 0 {
		return nil, fmt.Errorf("%w: it has signed no restore point: %s", ErrNoKey, s.key)
	}
	if len(s.signers) > 1 {
		names := make([]string, len(s.signers))
		for i, signer := range s.signers {
			names[i] = signer.String()
		}
		return nil, fmt.Errorf("%w: %s: %s", ErrSigners, s.key, strings.Join(names, ", "))
	}
	for i := range s.found {
		p := &s.found[i]
		p.Only = p.Damaged == nil && !s.others[vmOfObject(p.info.Name)]
	}
	return s.found, nil
}

// ForgetSigned forgets points that SignedBy has found, but for those that are held: those
// that can be read as Forget does, the others as ForgetDamaged does. Those that the store
// keeps locked stay: a LockedError, and all others are forgotten.
func (r *Repository) ForgetSigned(ctx context.Context, points []SignedPoint) error {
	if err := r.Allow(RoleMaintain, "forget restore points"); err != nil {
		return err
	}
	var whole []Point
	var damaged []blob.Info
	for i := range points {
		switch p := &points[i]; {
		case p.Held != nil:
		case p.Damaged == nil:
			whole = append(whole, p.Point)
		default:
			damaged = append(damaged, p.info)
		}
	}
	kept := new(LockedError)
	for part := range slices.Chunk(damaged, maxForgotten) {
		if err := r.buryDamaged(ctx, part, kept); err != nil {
			return fmt.Errorf("forget damaged points: %w", err)
		}
	}
	err := r.Forget(ctx, whole)
	if locked := new(LockedError); errors.As(err, &locked) {
		kept.Points, kept.Until = append(kept.Points, locked.Points...), sooner(kept.Until, locked.Until)
		err = nil
	}
	if err == nil && len(kept.Points) > 0 {
		err = fmt.Errorf("forget: %w", kept)
	}
	return err
}

// buryDamaged gives up points that cannot be read, and deletes them, but for those that the
// store keeps: they count no more (givenUp), and are in kept.
func (r *Repository) buryDamaged(ctx context.Context, infos []blob.Info, kept *LockedError) error {
	if len(infos) == 0 {
		return nil
	}
	var t tombstone
	for _, info := range infos {
		h, err := hashOf(ctx, r.store, info)
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return err
		}
		t.Damaged = append(t.Damaged, Head{Point: strings.TrimPrefix(info.Name, pointPrefix), Hash: h})
	}
	if err := r.entomb(ctx, t); err != nil {
		return err
	}
	l := locks{store: r.store}
	for _, info := range infos {
		until, err := l.until(ctx, info.Name, r.now())
		if err != nil {
			return err
		}
		gone := false
		if until.IsZero() {
			if gone, err = remove(ctx, r.store, info.Name); err != nil {
				return err
			}
		}
		if id, _ := pointID(info.Name); !gone {
			kept.add(id, until)
		}
	}
	return nil
}
