package repo

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// packReaders is how many packs are read at the same time, each into memory whole.
const packReaders = 2

// directoryReaders is how many directories are read at the same time.
const directoryReaders = 8

// comparePacks compares what an index object says of packs with the packs' own
// directories.
func (c *checker) comparePacks(ctx context.Context, object string, packs []pack.Listing) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(directoryReaders)
	for i := range packs {
		g.Go(func() error { return c.compare(ctx, object, &packs[i]) })
	}
	return g.Wait()
}

func (c *checker) compare(ctx context.Context, object string, want *pack.Listing) error {
	c.countBlocks(want)
	if err := c.checkSigner(want); err != nil {
		return c.problem(object, err) // which says of the pack what its maker did not
	}
	name := packObject(want.Pack)
	info, ok := c.packs[want.Pack]
	if !ok {
		return c.problem(name, fmt.Errorf("%w: missing; %s lists it", wire.ErrDamaged, object))
	}
	if info.Size != int64(want.Size) {
		return c.problem(name, fmt.Errorf("%w: %d bytes, %s says %d", wire.ErrDamaged, info.Size, object, want.Size))
	}
	got, err := readDirectory(ctx, c.r.store, c.r.ring, info)
	if err != nil {
		return c.problem(name, err)
	}
	if !reflect.DeepEqual(got, *want) {
		return c.problem(name, fmt.Errorf("%w: %s says otherwise than the directory", wire.ErrDamaged, object))
	}
	return nil
}

func (c *checker) countBlocks(l *pack.Listing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range l.Directory {
		c.report.Blocks += int64(len(l.Directory[i].Blocks))
	}
}

// checkPacks opens every pack, whether listed or not, when all is to be read.
func (c *checker) checkPacks(ctx context.Context) error {
	if !c.o.ReadAll {
		return nil
	}
	var total int64
	var all []blob.Info
	for _, info := range c.packs {
		all = append(all, info)
		total += info.Size
	}
	slices.SortFunc(all, func(a, b blob.Info) int { return strings.Compare(a.Name, b.Name) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(packReaders)
	for _, info := range all {
		g.Go(func() error {
			err := c.readPack(ctx, info)
			c.progress(info.Size, total)
			return c.problem(info.Name, err)
		})
	}
	return g.Wait()
}

func (c *checker) progress(read, total int64) {
	c.mu.Lock()
	c.report.Read += read
	done := c.report.Read
	c.mu.Unlock()
	if c.o.Progress != nil {
		c.o.Progress(done, total)
	}
}

// readPack proves one pack: its name, and that every block opens to what the
// directory says. It changes nothing of c.
func (c *checker) readPack(ctx context.Context, info blob.Info) error {
	b, err := readPackWhole(ctx, c.r.store, c.r.ring, info)
	if err != nil {
		return err
	}
	l, _, err := pack.OpenDirectory(c.r.ring, b, info.Size)
	if err != nil {
		return err
	}
	l.Pack = pack.Name(c.r.ring, b)
	if err := c.checkSigner(&l); err != nil {
		return err
	}
	key, kind, err := c.r.ring.OpenPackKey(b[:c.r.ring.PackHeaderSize()])
	if err != nil {
		return err
	}
	if kind != l.Kind {
		return fmt.Errorf("%w: starts as %q and ends as %q", wire.ErrDamaged, rune(kind), rune(l.Kind))
	}
	namer := c.r.ring.Data
	if kind == wire.NodePack {
		namer = c.r.ring.Nodes
	}
	// Never what Unpack returned: that may be a part of b, with segments behind
	// it that are still to be opened.
	unpacked := make([]byte, 0, pack.MaxSegment)
	for i := range l.Directory {
		s := &l.Directory[i]
		sealed := b[s.Offset:][:s.Length]
		packed, err := key.Open(sealed[:0], s.Offset, sealed)
		if err != nil {
			return err
		}
		plain, err := c.r.codec.Unpack(unpacked, packed)
		if err != nil {
			return err
		}
		if err := s.Verify(plain, namer); err != nil {
			return err
		}
	}
	return nil
}
