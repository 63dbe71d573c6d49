package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
	"github.com/lull-backup/lull/snapshot/space"
)

// guard ends a run while its deltas can still be merged and nobody has been stopped. It
// looks every second, and when QEMU says that a delta has grown past a mark: half-way
// to the next line, so that a guest that writes fast is looked at ever more often. A mark
// is good for one word of QEMU's, and set anew then.
type guard struct {
	host   *Host
	plan   snapshot.Plan
	warned map[string]bool   // of what
	nodes  map[string]string // of the deltas' files, by disk
	marks  map[string]int64  // by such a node; bytes of the file's length
}

func newGuard(h *Host, p snapshot.Plan) guard {
	return guard{host: h, plan: p, warned: map[string]bool{}, nodes: map[string]string{}, marks: map[string]int64{}}
}

// leastStep is how far ahead a mark is at least, in bytes: QEMU says nothing of smaller
// writes one by one.
const leastStep = 64 << 10

// eventThreshold is QEMU's word that a node was written to beyond its mark.
const eventThreshold = "BLOCK_WRITE_THRESHOLD"

// guardDeltas is the guard before anybody Watches: while memory is written and the guest goes
// on. Its monitor may have to wait for that, so it is not asked for marks. nil: ctx has ended.
func (h *Host) guardDeltas(ctx context.Context, p snapshot.Plan) error {
	g := newGuard(h, p)
	tick := time.NewTicker(guardTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := g.look(ctx, nil, nil); errors.Is(err, snapshot.ErrNoSpace) {
			return err // what else goes wrong, Watch finds too
		}
	}
}

// guardTick is how often deltas are looked at whatever QEMU says.
const guardTick = time.Second

// look is one look at the deltas, after an event or none. Without a monitor no marks are set.
func (g *guard) look(ctx context.Context, m *monitor, e *qmp.Event) error {
	g.reached(e)
	demands, err := g.host.opt.Space.Demands(g.plan, snapshot.Want{})
	if err != nil {
		return err
	}
	left := map[uint64]int64{}
	for _, d := range demands {
		n, tight, err := g.host.opt.Ledger.Look(runName(g.plan.VM, g.plan.Run), d)
		if err != nil {
			return err
		}
		if tight {
			g.warn(d.Dir, "room for deltas runs out", "folder", d.Dir, "free", d.Free, "ends_below", d.Hard)
		}
		left[d.Device] = n
	}
	for _, d := range g.plan.Disks {
		if err := g.lookAt(ctx, m, d, left); err != nil {
			return err
		}
	}
	return nil
}

// lookAt looks at one delta, and sets its mark.
func (g *guard) lookAt(ctx context.Context, m *monitor, d snapshot.DiskPlan, left map[uint64]int64) error {
	takes := space.FileTakes(d.Delta)
	soft, hard := g.host.opt.Space.Sizes(d.Size)
	if hard > 0 && takes > hard {
		return tooLarge(d, takes, hard)
	}
	if soft > 0 && takes > soft {
		g.warn(d.Delta, "a delta has grown large", "delta", d.Delta, "bytes", takes, "ends_above", hard)
	}
	room, err := g.host.opt.Space.At(filepath.Dir(d.Delta))
	if err != nil {
		return err
	}
	ahead := int64(math.MaxInt64)
	if n, ok := left[room.Device]; ok {
		ahead = n / int64(len(g.plan.Disks)) // others of the plan may take as much
	}
	for _, line := range []int64{soft, hard} {
		if takes < line {
			ahead = min(ahead, line-takes)
		}
	}
	if ahead == math.MaxInt64 || m == nil {
		return nil
	}
	return g.mark(ctx, m, d, max(ahead/2, leastStep))
}

// mark has QEMU say when a delta is longer by so many bytes. That it cannot does no
// harm: there is a look every second.
func (g *guard) mark(ctx context.Context, m *monitor, d snapshot.DiskPlan, ahead int64) error {
	info, err := os.Stat(d.Delta)
	if err != nil {
		return fmt.Errorf("look at delta: %w", err)
	}
	node, err := g.node(ctx, m, d)
	if err != nil || node == "" {
		return err
	}
	at := info.Size() + ahead
	if old := g.marks[node]; old > info.Size() && old <= at { // else it was reached, or is too far now
		return nil
	}
	g.marks[node] = at
	return m.ask(ctx, "block-set-write-threshold", args{"node-name": node, "write-threshold": at}, nil)
}

// node is that of a delta's file. A manager names it as it likes.
func (g *guard) node(ctx context.Context, m *monitor, d snapshot.DiskPlan) (string, error) {
	if m.vm.Manager == nil {
		return fileNode(d.DeltaNode), nil
	}
	if node := g.nodes[d.Name]; node != "" {
		return node, nil
	}
	nodes, err := m.nodes(ctx, true)
	for i := range nodes {
		if n := &nodes[i]; n.Driver == "file" && m.isDelta(d, n) {
			g.nodes[d.Name] = n.Node
		}
	}
	return g.nodes[d.Name], err
}

// reached forgets the mark that an event is about.
func (g *guard) reached(e *qmp.Event) {
	if e == nil || e.Name != eventThreshold {
		return
	}
	var data struct {
		Node string `json:"node-name"`
	}
	if json.Unmarshal(e.Data, &data) == nil {
		delete(g.marks, data.Node)
	}
}

// warn warns once of each thing.
func (g *guard) warn(of, message string, about ...any) {
	if !g.warned[of] {
		g.warned[of] = true
		g.host.opt.Log.Warn(message, append([]any{"vm", g.plan.VM}, about...)...)
	}
}

func tooLarge(d snapshot.DiskPlan, takes, hard int64) error {
	err := fmt.Errorf("the delta of disk %s takes %s in %s, the run ends at %s: %w",
		d.Name, space.Bytes(takes), filepath.Dir(d.Delta), space.Bytes(hard), snapshot.ErrNoSpace)
	return snapshot.WithHint(err, "back it up when its guest writes less, or allow more: space of the host, delta: {hard: ...}")
}
