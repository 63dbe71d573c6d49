package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/spill"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
)

// Usage is what a repository costs, and for whom. Bytes are as stored: compressed and
// sealed, a block at its share of its segment.
type Usage struct {
	Points int   `json:"points"`
	Stored int64 `json:"stored"` // bytes of all packs
	// Unused is what no restore point needs: what a prune may free, at most.
	Unused int64 `json:"unused"`
	// Twice is what is stored again although it is there, as by hosts that did not
	// know of each other, or in place of what is damaged.
	Twice  int64     `json:"twice"`
	VMs    []VMUsage `json:"vms"`    // by name
	Growth []Growth  `json:"growth"` // by time
}

// VMUsage is what one VM costs.
type VMUsage struct {
	VM     string    `json:"vm"`
	Points int       `json:"points"`
	First  time.Time `json:"first"` // frozen
	Last   time.Time `json:"last"`
	Size   int64     `json:"size"` // of the newest point's disks and files
	Data   int64     `json:"data"` // what is in them but zeros
	// Alone is what only this VM needs: what forgetting all of it would free.
	// Shared is what others need too, Share this VM's part of it when it is
	// divided evenly.
	Alone  int64 `json:"alone"`
	Shared int64 `json:"shared"`
	Share  int64 `json:"share"`
}

// Growth is what one restore point added to those before it, of all VMs.
type Growth struct {
	Frozen time.Time `json:"frozen"`
	VM     string    `json:"vm"`
	Point  string    `json:"point"`
	Added  int64     `json:"added"`
}

// Usage reads the index and the maps of all points, and tells what they come to.
// Damaged points are passed over: they are in the error, as with Points, beside what is
// known of the others.
//
// Memory is bounded however many blocks there are: one record of 40 bytes a block that
// is listed, and one a block and VM that needs it, go through sorted files in a
// temporary folder. For 100 million blocks of one VM each that is 8 GB of files, written
// once or twice and read once, and 64 MB of memory.
func (r *Repository) Usage(ctx context.Context) (_ Usage, err error) {
	points, damaged := r.Points(ctx, "")
	if damaged != nil && !passable(damaged) {
		return Usage{}, damaged
	}
	slices.SortFunc(points, func(a, b Point) int { return cmp.Or(a.Frozen.Compare(b.Frozen), cmp.Compare(a.ID, b.ID)) })
	u := &usage{r: r, vms: map[string]uint32{}}
	if u.records, err = spill.New("", recordSize); err != nil {
		return Usage{}, err
	}
	defer func() { err = errors.Join(err, u.records.Close()) }()
	if err := u.listed(ctx); err != nil {
		return Usage{}, err
	}
	for i := range points {
		u.begin(&points[i])
	}
	for vm, number := range u.vms {
		if err := u.needed(ctx, points, vm, number); err != nil {
			return Usage{}, err
		}
	}
	if err := u.sum(ctx); err != nil {
		return Usage{}, err
	}
	return u.result, damaged
}

// usage gathers records, sorts them, and adds them up. A record is a block's name and
// either where it is stored (0, bytes) or who needs it (1 + number of the first point in
// order of time, number of the VM), both big-endian: so all of a block come together,
// its places first.
type usage struct {
	r       *Repository
	records *spill.Set
	vms     map[string]uint32
	result  Usage
}

const recordSize = 32 + 4 + 4

func (u *usage) add(name *block.Name, a, b uint32) error {
	var rec [recordSize]byte
	copy(rec[:], name[:])
	binary.BigEndian.PutUint32(rec[32:], a)
	binary.BigEndian.PutUint32(rec[36:], b)
	return u.records.Add(rec[:])
}

// listed records what all index objects list, one after the other.
func (u *usage) listed(ctx context.Context) error {
	c := &checker{r: u.r}
	if err := c.listIndexes(ctx); err != nil {
		return err
	}
	seen := map[[32]byte]bool{} // packs: 64 bytes each
	for _, o := range c.indexes {
		packs, err := u.r.readIndex(ctx, u.r.store, o)
		if passable(err) {
			continue // a check tells of it
		}
		if err != nil {
			return err
		}
		for i := range packs {
			if l := &packs[i]; !seen[l.Pack] {
				seen[l.Pack] = true
				u.result.Stored += int64(l.Size)
				for s := range l.Directory {
					if err := u.segment(l.Directory[s].Length, l.Directory[s].Blocks); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// segment records the blocks of a segment, each at its share of what is stored.
func (u *usage) segment(stored uint32, blocks []pack.Block) error {
	var plain, done, told uint64
	for i := range blocks {
		plain += uint64(blocks[i].Length)
	}
	for i := range blocks {
		done += uint64(blocks[i].Length)
		upTo := uint64(stored) * done / plain
		if err := u.add(&blocks[i].Name, 0, uint32(upTo-told)); err != nil {
			return err
		}
		told = upTo
	}
	return nil
}

// begin makes room for a point, which comes in order of time.
func (u *usage) begin(p *Point) {
	number, known := u.vms[p.VM]
	if !known {
		number = uint32(len(u.result.VMs))
		u.vms[p.VM] = number
		u.result.VMs = append(u.result.VMs, VMUsage{VM: p.VM, First: p.Frozen})
	}
	v := &u.result.VMs[number]
	v.Points++
	v.Last, v.Size, v.Data = p.Frozen, 0, 0
	for root := range p.roots() {
		v.Size += root.Size
		v.Data += root.Data
	}
	u.result.Points++
	u.result.Growth = append(u.result.Growth, Growth{Frozen: p.Frozen, VM: p.VM, Point: p.ID})
}

// needed records what the points of one VM need, each node once.
func (u *usage) needed(ctx context.Context, points []Point, vm string, number uint32) (err error) {
	seen, err := newNameSet()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, seen.close()) }()
	nodes := u.r.nodes(u.r.store)
	for i := range points {
		if points[i].VM != vm {
			continue
		}
		w := tree.Walker{
			Load: nodes.load,
			Enter: func(name block.Name) (bool, error) {
				had, err := seen.has(name)
				if had || err != nil {
					return false, err
				}
				return true, errors.Join(seen.add(ctx, name), u.add(&name, uint32(i)+1, number))
			},
			Leaf: func(_ int64, entries []tree.Entry) error {
				for j := range entries {
					if err := u.add(&entries[j].Name, uint32(i)+1, number); err != nil {
						return err
					}
				}
				return nil
			},
			Bad: func(_ block.Name, _ tree.Span, err error) error {
				if passable(err) {
					return nil // a check tells of it
				}
				return err
			},
		}
		for root := range points[i].roots() {
			if err := w.Walk(ctx, tree.Root(root)); err != nil {
				return fmt.Errorf("point %s: %w", points[i].ID, err)
			}
		}
	}
	return nil
}

// sum reads the records in order and adds up block by block.
func (u *usage) sum(ctx context.Context) error {
	var b tally
	n := 0
	for rec, err := range u.records.Sorted() {
		if err != nil {
			return err
		}
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if name := block.Name(rec[:32]); name != b.name {
			u.close(&b)
			b = tally{name: name, users: b.users[:0]}
		}
		b.take(binary.BigEndian.Uint32(rec[32:]), binary.BigEndian.Uint32(rec[36:]))
	}
	u.close(&b)
	slices.SortFunc(u.result.VMs, func(a, b VMUsage) int { return cmp.Compare(a.VM, b.VM) })
	return nil
}

// tally is one block.
type tally struct {
	name   block.Name
	places int
	size   int64 // of one place
	extra  int64 // of the others
	first  uint32
	users  []uint32 // VMs, ascending by point, each once
}

func (b *tally) take(point, what uint32) {
	if point == 0 {
		if b.places++; b.places == 1 {
			b.size = int64(what)
		} else {
			b.extra += int64(what)
		}
		return
	}
	if b.first == 0 {
		b.first = point
	}
	if !slices.Contains(b.users, what) {
		b.users = append(b.users, what)
	}
}

// close adds a block up.
func (u *usage) close(b *tally) {
	u.result.Twice += b.extra
	switch len(b.users) {
	case 0:
		u.result.Unused += b.size
		return
	case 1:
		u.result.VMs[b.users[0]].Alone += b.size
	default:
		for _, v := range b.users {
			u.result.VMs[v].Shared += b.size
			u.result.VMs[v].Share += b.size / int64(len(b.users))
		}
	}
	u.result.Growth[b.first-1].Added += b.size
}
