package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/count"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

var errStale = errors.New("the model's costs are not those of the code")

// cost is what the model takes from real backups.
type cost struct {
	perBlock, perObject float64 // bytes of index
	block               float64 // bytes of a new block, on average
	requests            float64 // of a host's night, from the opening of the repository on
}

func defaultCost() cost { return cost{perBlock: 34.3, perObject: 940, block: 16200, requests: 21} }

// sample is one backup and the store after it.
type sample struct {
	root   repo.Root
	blocks float64 // new ones, map nodes aside
	bytes  float64
	index  float64 // bytes of all index objects
}

// calibrate backs a disk up and, a night later, what changed of it, and compares
// what that costs with the model.
func (m *model) calibrate(ctx context.Context) error {
	store := mem.New()
	pass := []byte("a repository in memory")
	if _, err := repo.Init(ctx, store, repo.InitOptions{Passphrase: pass, Cost: repo.Cost{Time: 1, Memory: 64, Threads: 1}}); err != nil {
		return err
	}
	disk := make([]byte, 24*block.WindowSize)
	rng := rand.NewChaCha8([32]byte{byte(m.seed)})
	_, _ = rng.Read(disk)
	counted := count.New(store)
	first, err := backUp(ctx, counted, pass, disk, nil)
	if err != nil {
		return err
	}
	for w := 0; w < len(disk); w += 4 * block.WindowSize {
		_, _ = rng.Read(disk[w:][:block.WindowSize/2])
	}
	before := counted.Totals()
	second, err := backUp(ctx, counted, pass, disk, &first.root)
	if err != nil {
		return err
	}
	var real cost
	real.requests = float64(counted.Totals().Sub(before).Requests)
	// Two objects, of which one has more blocks, tell what a block takes.
	one, two := first.index, second.index-first.index
	real.perBlock = (one - two) / (first.blocks - second.blocks)
	real.perObject = two - real.perBlock*second.blocks
	real.block = (first.bytes + second.bytes) / (first.blocks + second.blocks)
	return m.cost.compare(real)
}

// compare fails when a real backup costs something else than the model takes.
// Where blocks end depends on the repository's key, so costs differ a little.
func (c cost) compare(real cost) error {
	for _, x := range []struct {
		what                   string
		model, real, tolerance float64
	}{
		{"bytes of index a block", c.perBlock, real.perBlock, 0.05},
		{"bytes of index an object", c.perObject, real.perObject, 0.5},
		{"bytes a block", c.block, real.block, 0.05},
		{"requests a night", c.requests, real.requests, 0.5},
	} {
		if math.Abs(x.real-x.model) > x.tolerance*x.model {
			return fmt.Errorf("%w: %s: %.4g, the model takes %.4g", errStale, x.what, x.real, x.model)
		}
	}
	return nil
}

func backUp(ctx context.Context, store blob.Store, pass, disk []byte, parent *repo.Root) (s sample, err error) {
	r, err := repo.Open(ctx, store, repo.OpenOptions{Passphrase: pass})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	at := time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)
	if parent != nil {
		at = at.AddDate(0, 0, 1)
	}
	session, err := r.Begin(ctx, "host/vm", at)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	stream, err := session.Stream(ctx, int64(len(disk)), parent)
	if err != nil {
		return s, err
	}
	for w := range len(disk) / block.WindowSize {
		if err := stream.Put(ctx, int64(w), disk[w*block.WindowSize:][:block.WindowSize]); err != nil {
			return s, err
		}
	}
	if s.root, err = stream.Finish(ctx); err != nil {
		return s, err
	}
	p, err := session.Commit(ctx, repo.Point{VM: "host/vm", Frozen: at, Disks: []repo.Disk{{Root: s.root}}})
	if err != nil {
		return s, fmt.Errorf("commit: %w", err)
	}
	s.blocks, s.bytes = float64(p.Stats.NewBlocks), float64(p.Stats.New)
	err = store.List(ctx, "index/", func(i blob.Info) error { s.index += float64(i.Size); return nil })
	return s, err
}
