package transport

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/transport/repo"
)

// copyWorkers at most: each holds two batches of 16 MiB, and what a session takes.
const copyWorkers = 3

// Copy brings a restore point into another repository, under its own id and time. The
// names of blocks are keyed per repository: everything is opened, verified, cut by the
// target's key and sealed anew, and what the target has is not sent. earlier are the
// source's points of the VM: where the target's newest is a copy of one of them, only
// windows that differ from it are read.
//
// A point that the target has already is to be passed over by the caller.
func Copy(ctx context.Context, from, to *repo.Repository, p repo.Point, earlier []repo.Point, o Options) (copied repo.Point, err error) {
	origin := from.OriginOf(&p)
	s, err := to.BeginCopy(ctx, p.VM, p.ID, origin)
	if err != nil {
		return repo.Point{}, err
	}
	defer func() {
		if e := s.Close(); err == nil && e != nil {
			err = fmt.Errorf("close session: %w", e)
		}
	}()
	c := copying{from: from, s: s, opts: o}
	c.choose(earlier)
	next := p
	next.Parent, next.ParentHash, next.Heads, next.SignedBy, next.Origin = "", repo.Hash{}, nil, "", &origin
	next.Disks = make([]repo.Disk, len(p.Disks))
	for i, d := range p.Disks {
		next.Disks[i] = d
		next.Disks[i].Tracking = repo.Tracking{} // it is of the other repository
		if next.Disks[i].Root, err = c.stream(ctx, "disk "+d.Name, d.Root); err != nil {
			return repo.Point{}, fmt.Errorf("copy disk %s: %w", d.Name, err)
		}
	}
	next.Files = make([]repo.File, len(p.Files))
	for i, f := range p.Files {
		next.Files[i] = f
		if next.Files[i].Root, err = c.stream(ctx, "file "+string(f.Role), f.Root); err != nil {
			return repo.Point{}, fmt.Errorf("copy %s file: %w", f.Role, err)
		}
	}
	next.Stats = repo.Stats{}
	return s.Commit(ctx, next)
}

// copying is one point on its way.
type copying struct {
	from *repo.Repository
	s    *repo.Session
	opts Options

	// The same point in both repositories, by stream; nil when there is none.
	base, parent map[string]repo.Root
}

// choose finds the point that both have: the newest of the target, if it is to be believed
// that it is a copy. What is equal in the source is not looked at again.
func (c *copying) choose(earlier []repo.Point) {
	parent, _ := c.s.Parent() // damage only means less to build on
	if parent.Origin == nil || !parent.Believed {
		return
	}
	for i := range earlier {
		if c.from.OriginOf(&earlier[i]) == *parent.Origin {
			c.base, c.parent = rootsOf(&earlier[i]), rootsOf(&parent)
		}
	}
}

func rootsOf(p *repo.Point) map[string]repo.Root {
	roots := map[string]repo.Root{}
	for _, d := range p.Disks {
		roots["disk "+d.Name] = d.Root
	}
	for _, f := range p.Files {
		roots["file "+string(f.Role)] = f.Root
	}
	return roots
}

func (c *copying) stream(ctx context.Context, what string, root repo.Root) (repo.Root, error) {
	var base, parent *repo.Root
	if b, ok := c.base[what]; ok {
		p := c.parent[what]
		base, parent = &b, &p
	}
	st, err := c.s.Stream(ctx, root.Size, parent)
	if err != nil {
		return repo.Root{}, err
	}
	if !st.Inherits() {
		base = nil
	}
	err = c.from.ReadWindows(ctx, root, base, c.opts.workers(copyWorkers), repo.Windows{
		Zero: st.Zero,
		Same: st.Keep,
		Data: func(ctx context.Context, window int64, data []byte) error {
			c.opts.progress(int64(len(data)))
			return st.Put(ctx, window, data)
		},
	})
	if err != nil {
		return repo.Root{}, err
	}
	return st.Finish(ctx)
}
