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
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Bounds of a manifest in bytes: as stored, and as JSON.
const (
	maxManifest = 16 << 20
	maxDocument = 32 << 20
)

// pointReaders is how many manifests are read at the same time.
const pointReaders = 4

// Points returns the restore points of a VM, or of all for "", by VM and then
// oldest first. A damaged one hides no other: the error, which wraps ErrCorrupt or
// ErrVersion then and names each, comes beside the points that are good.
func (r *Repository) Points(ctx context.Context, vm string) ([]Point, error) {
	prefix := pointPrefix
	if vm != "" {
		prefix = vmPrefix(r.ring.VM(vm))
	}
	infos, err := list(ctx, r.store, prefix)
	if err != nil {
		return nil, err
	}
	points, errs := make([]Point, len(infos)), make([]error, len(infos))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pointReaders)
	for i, info := range infos {
		g.Go(func() error {
			points[i], errs[i] = r.readPoint(ctx, r.store, info)
			if errors.Is(errs[i], ErrCorrupt) || errors.Is(errs[i], ErrVersion) {
				return nil
			}
			return errs[i]
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	points = slices.DeleteFunc(points, func(p Point) bool { return p.ID == "" })
	slices.SortFunc(points, func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.VM, b.VM), a.Frozen.Compare(b.Frozen), cmp.Compare(a.ID, b.ID))
	})
	return points, errors.Join(errs...)
}

// readPoint reads a manifest.
func (r *Repository) readPoint(ctx context.Context, store blob.Store, info blob.Info) (Point, error) {
	b, err := readSized(ctx, store, info, maxManifest)
	if err != nil {
		return Point{}, objectErr(info.Name, err)
	}
	packed, err := r.ring.OpenPoint(info.Name, b)
	if err != nil {
		return Point{}, objectErr(info.Name, err)
	}
	p, err := decodePoint(packed)
	if err == nil && pointObject(r.ring.VM(p.VM), p.ID) != info.Name {
		err = fmt.Errorf("%w: holds point %.40q", wire.ErrDamaged, p.ID)
	}
	if err != nil {
		return Point{}, objectErr(info.Name, err)
	}
	return p, nil
}

func decodePoint(packed []byte) (p Point, err error) {
	doc, err := decompress(packed)
	if err != nil {
		return p, fmt.Errorf("%w: %w", wire.ErrDamaged, err)
	}
	if err := json.Unmarshal(doc, &p); err != nil {
		return p, fmt.Errorf("%w: %w", wire.ErrDamaged, err)
	}
	if !strings.Contains(p.ID, "-") || p.VM == "" {
		return p, fmt.Errorf("%w: no point id or VM", wire.ErrDamaged)
	}
	for root := range p.roots() {
		if err := tree.Root(root).Check(); err != nil {
			return p, fmt.Errorf("%w: %w", wire.ErrDamaged, err)
		}
	}
	return p, nil
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
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxDocument))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	return dec.DecodeAll(b, nil)
}
