package repo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Bounds of a manifest: bytes as stored, bytes as JSON, points of other VMs.
const (
	maxManifest = 16 << 20
	maxDocument = 32 << 20
	maxHeads    = 1 << 16
)

// mostDocument is how much JSON so many bytes may hold: what many manifests of somebody else's
// take in memory is so a multiple of what was put into the store. Those of lull are some three
// to twenty times as large as packed, for the hashes in them.
func mostDocument(packed int) int { return min(maxDocument, 256<<10+128*packed) }

// pointReaders is how many manifests are read at the same time.
const pointReaders = 4

// Points returns the restore points of a VM, or of all for "", by VM and then
// oldest first. A damaged one hides no other: the error, which wraps ErrCorrupt or
// ErrVersion then and names each, comes beside the points that are good.
//
// What the store leaves out, or shows another of, is in the error too (ErrOmitted,
// ErrForged): see checkChain.
func (r *Repository) Points(ctx context.Context, vm string) ([]Point, error) {
	if err := r.mayList(); err != nil {
		return nil, err
	}
	prefix := pointPrefix
	if vm != "" {
		prefix = vmPrefix(r.ring.VM(vm))
	}
	infos, err := listPoints(ctx, r.store, prefix)
	if err != nil {
		return nil, err
	}
	points, errs, err := r.readPoints(ctx, infos)
	if err != nil {
		return nil, err
	}
	missing, err := r.checkChain(ctx, prefix, infos, points)
	if err != nil {
		return nil, err
	}
	errs = append(errs, missing...)
	slices.SortFunc(points, func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.VM, b.VM), a.Frozen.Compare(b.Frozen), cmp.Compare(a.ID, b.ID))
	})
	return points, errors.Join(errs...)
}

// mayList fails for a key that cannot read what points there are.
func (r *Repository) mayList() error {
	if r.ring.CanReadMaps() {
		return nil
	}
	return r.Allow(RoleRestore, "read restore points")
}

// readPoints reads manifests, and returns those that are good with what is wrong with
// the others.
func (r *Repository) readPoints(ctx context.Context, infos []blob.Info) ([]Point, []error, error) {
	points, errs := make([]Point, len(infos)), make([]error, len(infos))
	gone := givenUp{r: r}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pointReaders)
	for i, info := range infos {
		g.Go(func() error {
			p, err := gone.read(ctx, r.store, info)
			points[i] = p
			if !passable(err) {
				return err
			}
			errs[i] = reported(err)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return slices.DeleteFunc(points, func(p Point) bool { return p.ID == "" }), errs, nil
}

// Newest returns the newest restore point of a VM that can be read, or the zero
// Point when there is none. Those that are newer and damaged are in the error, as with
// Points. A key that only backs up gets what this host remembers of the point that it made
// last, if that is the newest; else a point without an ID, that tells no more than who
// signed the newest.
func (r *Repository) Newest(ctx context.Context, vm string) (Point, error) {
	return r.newestOf(ctx, r.store, vm)
}

func (r *Repository) newestOf(ctx context.Context, store blob.Store, vm string) (Point, error) {
	prefix := vmPrefix(r.ring.VM(vm))
	infos, err := listPoints(ctx, store, prefix)
	if err != nil {
		return Point{}, err
	}
	p, errs, err := r.newest(ctx, store, infos)
	if err != nil {
		return Point{}, err
	}
	var read []Point
	if p.ID != "" {
		read = []Point{p}
	}
	missing, err := r.checkChain(ctx, prefix, infos, read)
	if err != nil {
		return Point{}, err
	}
	return p, errors.Join(append(errs, missing...)...)
}

// newest reads manifests of a VM until one is good.
func (r *Repository) newest(ctx context.Context, store blob.Store, infos []blob.Info) (Point, []error, error) {
	// Ids sort by time, so names do.
	infos = slices.SortedFunc(slices.Values(infos), func(a, b blob.Info) int { return strings.Compare(b.Name, a.Name) })
	var damaged []error
	gone := givenUp{r: r}
	for _, info := range infos {
		p, err := gone.read(ctx, store, info)
		if err == nil {
			return p, damaged, nil
		}
		if !passable(err) {
			return Point{}, nil, err
		}
		damaged = append(damaged, reported(err))
	}
	return Point{}, damaged, nil
}

// passable tells whether other points can be read although one cannot.
func passable(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion) || errors.Is(err, ErrRole) || errors.Is(err, errFence)
}

// reported is err, but for a point that was removed since it was listed, and for a
// fence.
func reported(err error) error {
	if errors.Is(err, blob.ErrNotFound) || errors.Is(err, errFence) {
		return nil
	}
	return err
}

// readPoint reads a manifest.
func (r *Repository) readPoint(ctx context.Context, store blob.Store, info blob.Info) (Point, error) {
	b, err := readSized(ctx, store, info, maxManifest)
	if err != nil {
		return Point{}, objectErr(info.Name, err)
	}
	if r.isFence(info, b) {
		return Point{}, errFence
	}
	p, err := r.openPoint(info, b)
	return p, objectErr(info.Name, err)
}

// openPoint opens a manifest as far as the key goes: for who only maintains, roots stand
// for disks and files; for who only backs up, nothing is left of a point that this host
// does not remember but who signed it.
func (r *Repository) openPoint(info blob.Info, b []byte) (Point, error) {
	sealed, err := r.ring.ParsePoint(info.Name, b)
	if err != nil {
		return Point{}, err
	}
	return r.openSealed(info, b, sealed)
}

// openSealed opens a manifest whose signature is good, if its signer may make points.
func (r *Repository) openSealed(info blob.Info, b []byte, sealed *keys.SealedPoint) (Point, error) {
	if err := r.trust.allows(sealed.Signer, RoleBackup, info, b); err != nil {
		return Point{}, err
	}
	if err := r.timelyName(info.Name, info.Created); err != nil {
		return Point{}, err
	}
	p, err := r.decodeSealed(info, b, sealed)
	if err != nil {
		return Point{}, err
	}
	if sealed.Signer != nil {
		p.SignedBy, p.Signer = sealed.Signer.Label, sealed.Signer.Signer.String()
	}
	p.Believed = r.believes(sealed.Signer)
	if p.ID == "" {
		return p, nil
	}
	if err := r.timely(p.Frozen, info.Created); err != nil {
		return Point{}, err
	}
	if pointObject(r.ring.VM(p.VM), p.ID) != info.Name {
		return Point{}, fmt.Errorf("%w: holds point %.40q", wire.ErrDamaged, p.ID)
	}
	p.Hash = sum(b)
	r.adopt(&p, sealed.Signer)
	return p, nil
}

// decodeSealed is the point, or the zero Point for who may not read it and does not
// remember it either.
func (r *Repository) decodeSealed(info blob.Info, b []byte, sealed *keys.SealedPoint) (Point, error) {
	if !r.ring.CanReadMaps() {
		return r.remembered(info.Name, b)
	}
	if r.ring.CanRead() {
		packed, err := r.ring.OpenPoint(sealed)
		if err != nil {
			return Point{}, err
		}
		return decodePoint(packed)
	}
	packed, err := r.ring.OpenOutline(sealed)
	if err != nil {
		return Point{}, err
	}
	var o outline
	if err := decodeDocument(packed, &o); err != nil {
		return Point{}, err
	}
	p := o.point()
	return p, checkDecoded(&p)
}

func decodePoint(packed []byte) (p Point, err error) {
	if err := decodeDocument(packed, &p); err != nil {
		return p, err
	}
	return p, checkDecoded(&p)
}

func decodeDocument(packed []byte, v any) error {
	doc, err := decompress(packed)
	if err != nil {
		return fmt.Errorf("%w: %w", wire.ErrDamaged, err)
	}
	if err := json.Unmarshal(doc, v); err != nil {
		return fmt.Errorf("%w: %w", wire.ErrDamaged, err)
	}
	return nil
}

func checkDecoded(p *Point) error {
	if !strings.Contains(p.ID, "-") || p.VM == "" {
		return fmt.Errorf("%w: no point id or VM", wire.ErrDamaged)
	}
	if len(p.Heads) > maxHeads {
		return fmt.Errorf("%w: names %d other points, at most %d are named", wire.ErrDamaged, len(p.Heads), maxHeads)
	}
	for root := range p.roots() {
		if err := tree.Root(root).Check(); err != nil {
			return fmt.Errorf("%w: %w", wire.ErrDamaged, err)
		}
	}
	return nil
}

// compress and decompress are for single documents; blocks have a pack.Codec.
func compress(b []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, err
	}
	defer enc.Close()
	return enc.EncodeAll(b, nil), nil
}

func decompress(b []byte) ([]byte, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(mostDocument(len(b)))))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	return dec.DecodeAll(b, nil)
}
