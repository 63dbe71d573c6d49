package qemu

import (
	"context"
	"slices"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// args are the arguments of a command.
type args = map[string]any

// block is a drive: a place for a medium, as query-block shows it.
type block struct {
	Device    string    `json:"device"`
	QDev      string    `json:"qdev"`
	Removable bool      `json:"removable"`
	IOStatus  string    `json:"io-status"`
	Inserted  *inserted `json:"inserted"`
}

// inserted is the node at the top of a drive's chain, or any named node.
type inserted struct {
	Node         string    `json:"node-name"`
	Driver       string    `json:"drv"`
	File         string    `json:"file"`
	BackingFile  string    `json:"backing_file"`
	Depth        int       `json:"backing_file_depth"`
	ReadOnly     bool      `json:"ro"`
	Encrypted    bool      `json:"encrypted"`
	DetectZeroes string    `json:"detect_zeroes"`
	Cache        cacheMode `json:"cache"`
	Image        layer     `json:"image"`
	Bitmaps      []bitmap  `json:"dirty-bitmaps"`
}

// bitmap is a dirty bitmap of a node. QEMU's jobs have some without a name.
type bitmap struct {
	Name         string `json:"name"`
	Granularity  int64  `json:"granularity"`
	Recording    bool   `json:"recording"`
	Persistent   bool   `json:"persistent"`
	Inconsistent bool   `json:"inconsistent"`
}

type cacheMode struct {
	Direct  bool `json:"direct"`
	NoFlush bool `json:"no-flush"`
}

// layer is one image of a chain.
type layer struct {
	Filename string `json:"filename"`
	Format   string `json:"format"`
	Size     int64  `json:"virtual-size"`
	Backing  *layer `json:"backing-image"`
	Specific struct {
		Data struct {
			Compat   string `json:"compat"`
			DataFile string `json:"data-file"`
		} `json:"data"`
	} `json:"format-specific"`
}

// job is a background job, as query-jobs shows it.
type job struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	Status string `json:"status"`
	Error  string `json:"error"`
	// How far it is, in bytes; the total of a commit grows as the guest writes.
	Current int64 `json:"current-progress"`
	Total   int64 `json:"total-progress"`
}

// export is a node that is served, as query-block-exports shows it.
type export struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Node string `json:"node-name"`
}

// drives lists the VM's drives.
func (m *monitor) drives(ctx context.Context) ([]block, error) {
	if len(m.vm.Nodes) > 0 {
		return m.bareNodes(ctx)
	}
	var list []block
	err := m.Execute(ctx, "query-block", nil, &list)
	return list, err
}

// bareNodes stands in for query-block in a process without devices: a drive is
// one of the VM's nodes, or what lies upon it.
func (m *monitor) bareNodes(ctx context.Context) ([]block, error) {
	nodes, err := m.nodes(ctx, false)
	if err != nil {
		return nil, err
	}
	var list []block
	for _, name := range m.vm.Nodes {
		list = append(list, block{Device: name, QDev: name, Inserted: topOf(nodes, findNode(nodes, name))})
	}
	return list, nil
}

// topOf follows a chain upwards.
func topOf(nodes []inserted, top *inserted) *inserted {
	for range nodes { // no chain is longer
		i := slices.IndexFunc(nodes, func(n inserted) bool {
			return top != nil && n.Depth > 0 && n.BackingFile == top.File
		})
		if i < 0 {
			break
		}
		top = &nodes[i]
	}
	return top
}

// nodes lists the named nodes; flat leaves their backing images out.
func (m *monitor) nodes(ctx context.Context, flat bool) ([]inserted, error) {
	var list []inserted
	err := m.Execute(ctx, "query-named-block-nodes", args{"flat": flat}, &list)
	return list, err
}

func findNode(nodes []inserted, name string) *inserted {
	for i := range nodes {
		if nodes[i].Node == name {
			return &nodes[i]
		}
	}
	return nil
}

func (m *monitor) jobs(ctx context.Context) ([]job, error) {
	var list []job
	err := m.Execute(ctx, "query-jobs", nil, &list)
	return list, err
}

func (m *monitor) exports(ctx context.Context) ([]export, error) {
	var list []export
	err := m.Execute(ctx, "query-block-exports", nil, &list)
	return list, err
}

// status is QEMU's run state, such as "running" or "io-error". A storage daemon
// has none and always runs.
func (m *monitor) status(ctx context.Context) (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := m.Execute(ctx, "query-status", nil, &s)
	if qmp.HasClass(err, qmp.ClassCommandNotFound) {
		return "running", nil
	}
	return s.Status, err
}

func (m *monitor) state(ctx context.Context) (snapshot.State, error) {
	s, err := m.status(ctx)
	if err != nil {
		return "", err
	}
	if s == "running" {
		return snapshot.StateRunning, nil
	}
	return snapshot.StatePaused, nil
}

// ask is Execute for facts that are good to have: a command that this QEMU does
// not know leaves result as it was.
func (m *monitor) ask(ctx context.Context, command string, a, result any) error {
	err := m.Execute(ctx, command, a, result)
	if qmp.HasClass(err, qmp.ClassCommandNotFound) || qmp.HasClass(err, qmp.ClassGeneric) || qmp.HasClass(err, qmp.ClassDeviceNotFound) {
		return nil
	}
	return err
}
