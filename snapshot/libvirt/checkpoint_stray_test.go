package libvirt

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
)

// astray: a domain that is on images of a tree which is not there gets no new one.
func (l *lifeline) astray() {
	l.t.Helper()
	trees := l.host.opt.CheckpointDir
	l.host.opt.CheckpointDir = trees + ".none"
	_, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{})
	stray := beside(l.dom.Disks[0], "00c0ffee", memoryEnding)
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		l.t.Fatal(err)
	}
	seen := l.Tree()
	l.host.opt.CheckpointDir = trees
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrDiverged) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "UUID") {
		l.t.Errorf("images of another tree: %v", err)
	}
	if made, err := filepath.Glob(trees + ".none/*.json"); err != nil || len(made) > 0 {
		l.t.Errorf("a tree was made: %v, %v", made, err)
	}
	var own []string
	err = l.host.onTree(l.ctx, "web", func(c *checkpointing) error {
		own = c.tree.Own
		return nil
	})
	if err != nil || !slices.Contains(seen.Unowned, stray) || slices.ContainsFunc(own, func(path string) bool { return !slices.Contains(seen.Astray, path) }) {
		l.t.Errorf("the domain is on %v, and beside it is %s: unowned %v, astray %v, %v", own, stray, seen.Unowned, seen.Astray, err)
	}
	if tree := l.Tree(); !slices.Equal(tree.Unowned, []string{stray}) || len(tree.Astray) > 0 {
		l.t.Errorf("with the tree: unowned %v, astray %v", tree.Unowned, tree.Astray)
	}
	if err := os.Remove(stray); err != nil {
		l.t.Fatal(err)
	}
	l.lost(own)
}

// lost: of trees, those are named whose domain is not there, as long as they have files.
func (l *lifeline) lost(files []string) {
	l.t.Helper()
	one, empty := rpc.UUID{1}, rpc.UUID{2}
	err := errors.Join(
		checkpoint.Save(l.host.treePath(one), checkpoint.Tree{VM: one.String(), Own: files, Nodes: []checkpoint.Node{{ID: "a", Images: []string{"/a"}}}}),
		checkpoint.Save(l.host.treePath(empty), checkpoint.Tree{VM: empty.String()}))
	if err != nil {
		l.t.Fatal(err)
	}
	got, err := l.host.LostTrees(l.ctx)
	if err != nil || len(got) != 1 || got[0].Path != l.host.treePath(one) || len(got[0].Files) != 1+len(files) || got[0].Err != nil {
		l.t.Errorf("lost trees %+v, %v", got, err)
	}
	if err := errors.Join(os.Remove(l.host.treePath(one)), os.Remove(l.host.treePath(empty))); err != nil {
		l.t.Fatal(err)
	}
}

// TestFilesInUseAreLeft: a file that cannot be removed yet makes no failure of what is done.
func TestFilesInUseAreLeft(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	c := &checkpointing{Host: &Host{opt: qemu.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}}, tree: checkpoint.Tree{Junk: []string{"/x.layer"}}}
	for _, err := range []error{nil, snapshot.ErrDiverged} {
		if got := c.later(err); got != err || log.Len() > 0 {
			t.Errorf("%v: %v, %q", err, got, log.String())
		}
	}
	if err := c.later(fmt.Errorf("open: %w", snapshot.ErrBusy)); err != nil || !strings.Contains(log.String(), "/x.layer") {
		t.Errorf("in use: %v, %q", err, log.String())
	}
}
