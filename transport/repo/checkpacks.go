package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// packReaders is how many packs are read at the same time, each into memory whole.
const packReaders = 2

// directoryReaders is how many directories are read at the same time.
const directoryReaders = 8

// choose says which packs are read whole.
func (c *checker) choose() {
	share := c.o.Sample
	if c.o.ReadAll {
		share = 1
	}
	all := make([]*packState, 0, len(c.packs))
	for _, p := range c.packs {
		all = append(all, p)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	goal := int64(share * float64(c.report.Stored))
	for _, p := range all {
		if share <= 0 || share < 1 && c.total >= goal {
			return
		}
		p.chosen = true
		c.total += p.info.Size
	}
}

// checkIndex reads all index objects, compares them with the packs that they list,
// and gathers where each block is whole, or was.
func (c *checker) checkIndex(ctx context.Context) (err error) {
	good, lost := c.index.Loader(), c.gone.Loader()
	defer func() { err = errors.Join(err, good.Close(), lost.Close()) }()
	for _, o := range c.indexes {
		packs, err := c.r.readIndex(ctx, c.r.store, o)
		if err != nil {
			if err := c.problem(o.Name, err); err != nil {
				return err
			}
			continue
		}
		found, err := c.examineAll(ctx, o.Name, packs)
		if err != nil {
			return err
		}
		id := sourceOf(o.Name)
		if err := good.Add(ctx, id, split(c.r.ring, packs, found, true)); err != nil {
			return err
		}
		if err := lost.Add(ctx, id, split(c.r.ring, packs, found, false)); err != nil {
			return err
		}
	}
	return errors.Join(good.Flush(ctx), lost.Flush(ctx))
}

// examineAll finds what is wrong with some packs.
func (c *checker) examineAll(ctx context.Context, object string, packs []pack.Listing) ([]*damage, error) {
	found := make([]*damage, len(packs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(directoryReaders)
	whole := make(chan struct{}, packReaders)
	for i := range packs {
		g.Go(func() (err error) {
			found[i], err = c.examine(ctx, object, &packs[i], whole)
			return err
		})
	}
	return found, g.Wait()
}

// split yields the blocks of some packs that are whole, or those that are not.
func split(ring *keys.Ring, packs []pack.Listing, found []*damage, whole bool) iter.Seq2[index.Entry, error] {
	return func(yield func(index.Entry, error) bool) {
		for i := range packs {
			for e := range entries(ring, &packs[i]) {
				if found[i].spares(e.SegmentOffset) == whole && !yield(e, nil) {
					return
				}
			}
		}
	}
}

// damage is what is wrong with a pack. Nil stands for nothing.
type damage struct {
	all      bool            // nothing can be read of it
	segments map[uint32]bool // by offset: those that cannot
}

// spares tells whether a segment can be read.
func (d *damage) spares(offset uint32) bool { return d == nil || !d.all && !d.segments[offset] }

// examine proves one pack that an index object lists, once, however many list it.
// whole bounds the packs that are in memory whole.
func (c *checker) examine(ctx context.Context, object string, want *pack.Listing, whole chan struct{}) (*damage, error) {
	c.countBlocks(want)
	name := packObject(want.Pack)
	c.mu.Lock()
	p, ok := c.packs[want.Pack]
	if ok {
		p.listed = true
	}
	c.mu.Unlock()
	if !ok {
		return &damage{all: true}, c.problem(name, fmt.Errorf("%w: missing; %s lists it", wire.ErrDamaged, object))
	}
	p.once.Do(func() { p.failed = c.examineOnce(ctx, object, p, want, whole) })
	if p.failed != nil {
		return nil, p.failed
	}
	if p.digest != digest(want) {
		return &damage{all: true}, c.problem(object, fmt.Errorf("%w: says otherwise of %s than its directory", wire.ErrDamaged, name))
	}
	return p.damage, nil
}

// examineOnce proves a pack by its directory, and reads it whole when it is chosen or
// anything is wrong: what it has lost is to be known exactly. Where the pack says
// otherwise than the index object, want is what the pack says from then on.
func (c *checker) examineOnce(ctx context.Context, object string, p *packState, want *pack.Listing, whole chan struct{}) error {
	var wrong error
	defer func() { p.digest = digest(want) }()
	if p.info.Size != int64(want.Size) {
		wrong = fmt.Errorf("%w: %d bytes, %s says %d", wire.ErrDamaged, p.info.Size, object, want.Size)
	} else if !p.chosen {
		got, err := readDirectory(ctx, c.r.store, c.r.ring, p.info)
		if err == nil {
			err = c.r.believe(&got)
		}
		if wrong = err; err == nil && digest(&got) == digest(want) {
			return nil
		} else if err == nil {
			wrong = fmt.Errorf("%w: %s says otherwise than the directory", wire.ErrDamaged, object)
		}
		if !passable(objectErr(p.info.Name, wrong)) {
			return wrong
		}
	}
	select {
	case whole <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-whole }()
	got, d, err := c.r.readWhole(ctx, p.info, want)
	if p.chosen {
		c.progress(p.info.Size)
	}
	if err = first(err, wrong); err == nil && digest(&got) != digest(want) {
		err = fmt.Errorf("%w: %s says otherwise than the directory", wire.ErrDamaged, object)
	}
	if len(got.Directory) > 0 {
		*want = got
	}
	if err != nil {
		p.damage, p.listing = d, want
		if d == nil {
			p.damage = &damage{}
		}
	}
	return c.problem(p.info.Name, err)
}

// checkUnlisted reads the chosen packs that no index object lists.
func (c *checker) checkUnlisted(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(packReaders)
	for _, p := range c.packs {
		if p.listed || !p.chosen {
			continue
		}
		g.Go(func() error {
			_, _, err := c.r.readWhole(ctx, p.info, nil)
			c.progress(p.info.Size)
			return c.problem(p.info.Name, err)
		})
	}
	return g.Wait()
}

func (c *checker) countBlocks(l *pack.Listing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range l.Directory {
		c.report.Blocks += int64(len(l.Directory[i].Blocks))
	}
}

func (c *checker) progress(read int64) {
	c.mu.Lock()
	c.report.Read += read
	done := c.report.Read
	c.mu.Unlock()
	if c.o.Progress != nil {
		c.o.Progress(done, c.total)
	}
}

// digest tells two listings of a pack apart.
func digest(l *pack.Listing) (sum [32]byte) {
	h := blake3.New()
	var b []byte
	for i := range l.Directory {
		s := &l.Directory[i]
		b = binary.LittleEndian.AppendUint32(b[:0], s.Offset)
		b = binary.LittleEndian.AppendUint32(b, s.Length)
		for j := range s.Blocks {
			b = append(b, s.Blocks[j].Name[:]...)
			b = binary.LittleEndian.AppendUint32(b, s.Blocks[j].Length)
		}
		h.Write(b) // never fails
	}
	h.Write([]byte{byte(l.Kind)})
	h.Write(l.Certificate)
	h.Write(l.Signature)
	h.Write(binary.LittleEndian.AppendUint32(nil, l.Size))
	h.Sum(sum[:0])
	return sum
}

// damagedPacks are the packs with anything wrong, sorted.
func (c *checker) damagedPacks() (names [][32]byte) {
	for object := range c.bad {
		if name, ok := sumOf(object); ok && packObject(name) == object {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, inNames)
	return names
}
