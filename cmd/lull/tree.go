package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
)

// checkpointTree is the tree of one VM as --json shows it.
type checkpointTree struct {
	Name string `json:"name"` // host/vm
	snapshot.Checkpoints
	Warnings []string `json:"warnings,omitempty"`
}

// checkpointList shows the trees of the VMs that are named, or of all that have one.
func (in *invocation) checkpointList(ctx context.Context, args []string, flags checkpointFlags) error {
	cfg, err := in.loadConfig()
	if err != nil {
		return err
	}
	hosts, trees := in.openHosts(cfg), []checkpointTree{}
	cfg, err = in.discover(ctx, cfg, hosts)
	in.fail(err)
	names := cfg.VMs()
	if len(args) > 0 {
		names = in.chooseVMs(cfg, args)
	}
	if flags.recover {
		for _, name := range names {
			in.failVM(name, in.checkpointRecover(ctx, name))
		}
	}
	for _, name := range names {
		hostName, vm, _ := strings.Cut(name, "/")
		c, ok := hosts[hostName].(snapshot.Checkpointer)
		if !ok {
			if len(args) > 0 {
				in.failVM(name, agent.NoCheckpoints(name))
			}
			continue
		}
		tree, err := c.Checkpoints(ctx, vm)
		if err != nil {
			in.failVM(name, err)
			continue
		}
		if len(args) > 0 || len(tree.List)+len(tree.Unowned)+len(tree.Astray) > 0 || tree.Pending != "" {
			trees = append(trees, checkpointTree{Name: name, Checkpoints: tree, Warnings: checkpointWarnings(cfg.Checkpoints, tree, time.Now())})
		}
	}
	return in.showTrees(trees)
}

// checkpointRecover brings to an end what was interrupted on one VM.
func (in *invocation) checkpointRecover(ctx context.Context, name string) error {
	_, err := in.withCheckpoints(ctx, name, func(ctx context.Context, _ *config.Config, c snapshot.Checkpointer, vm string) error {
		_, err := c.RecoverCheckpoints(ctx, vm)
		return err
	})
	return err
}

// checkpointWarnings are what an administrator should do something about.
func checkpointWarnings(limits config.Checkpoints, tree snapshot.Checkpoints, now time.Time) []string {
	list := beyondLimits(limits, tree, now)
	if tree.Pending != "" {
		list = append(list, fmt.Sprintf("an operation was interrupted (%s): lull checkpoint list --recover", tree.Pending))
	}
	for _, path := range tree.Missing {
		list = append(list, fmt.Sprintf("%s is missing: what rests upon it is lost", path))
	}
	for _, path := range tree.Unowned {
		list = append(list, fmt.Sprintf("%s is of no checkpoint", path))
	}
	for _, path := range tree.Astray {
		list = append(list, fmt.Sprintf("the VM's disks rest upon %s, and its tree of checkpoints does not have that", path))
	}
	return list
}

// beyondLimits are the checkpoints that are older, larger or more than they should get.
func beyondLimits(limits config.Checkpoints, tree snapshot.Checkpoints, now time.Time) (list []string) {
	for _, c := range tree.List {
		if age := now.Sub(c.Created); !c.Deleted && !c.Created.IsZero() && limits.MaxAge > 0 && age > limits.MaxAge {
			list = append(list, fmt.Sprintf("checkpoint %s is %d days old", called(c), int(age/day)))
		}
	}
	if limits.MaxGrowth > 0 && tree.Growth > limits.MaxGrowth {
		list = append(list, fmt.Sprintf("the VM has written %s since its newest checkpoint", size(tree.Growth)))
	}
	if tree.Tight != "" {
		list = append(list, tree.Tight+", and the VM's images grow there")
	}
	if limits.MaxDepth > 0 && tree.Depth >= limits.MaxDepth {
		list = append(list, fmt.Sprintf("the VM rests upon %s: its disks get slower to read with each", count(tree.Depth, "checkpoint")))
	}
	return list
}

// showTrees draws them, and warns.
func (in *invocation) showTrees(trees []checkpointTree) error {
	if in.flags.json {
		return writeJSON(in.Stdout, map[string]any{"trees": trees})
	}
	for _, t := range trees {
		if err := drawTree(in.Stdout, t); err != nil {
			return err
		}
		for _, w := range t.Warnings {
			in.warn("%s: %s", t.Name, w)
		}
	}
	return nil
}

// drawTree draws one tree: every checkpoint under the one that it was made upon, and the
// VM where it runs.
//
//	lab/web
//	└─ clean (1a2b3c4d)  2026-11-22 08:00:00  memory  2.1 GiB
//	   ├─ patched (5e6f7a8b)  2026-11-22 09:00:00  310 MiB
//	   └─ > now  12 MiB
func drawTree(w io.Writer, t checkpointTree) error {
	var b strings.Builder
	fmt.Fprintln(&b, printable(t.Name))
	if len(t.List) == 0 {
		fmt.Fprintln(&b, "  no checkpoints")
	} else {
		t.draw(&b, "", "")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// draw draws what rests upon a checkpoint.
func (t checkpointTree) draw(b *strings.Builder, parent, indent string) {
	var below []snapshot.Checkpoint
	for _, c := range t.List {
		if c.Parent == parent {
			below = append(below, c)
		}
	}
	here := t.Now == parent
	for i, c := range below {
		branch, more := "├─ ", "│  "
		if i == len(below)-1 && !here {
			branch, more = "└─ ", "   "
		}
		fmt.Fprintln(b, indent+branch+branchText(c))
		t.draw(b, c.ID, indent+more)
	}
	if here {
		fmt.Fprintf(b, "%s└─ > now  %s\n", indent, size(t.Growth))
	}
}

// branchText is the line of a checkpoint.
func branchText(c snapshot.Checkpoint) string {
	if c.Deleted {
		return fmt.Sprintf("(deleted, its images are shared)  %s", size(c.Size))
	}
	parts := []string{called(c), moment(c.Created)}
	if c.Memory {
		parts = append(parts, "memory")
	}
	return strings.Join(append(parts, size(c.Size)), "  ")
}
