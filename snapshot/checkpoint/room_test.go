package checkpoint

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
)

func TestRoom(t *testing.T) {
	tree := Tree{Disks: []Disk{{Name: "root", Path: filepath.Join(t.TempDir(), "root.qcow2")}}}
	little, much := space.LeaveFree(1<<60), space.LeaveFree(1)
	if err := tree.Roomy(much); err != nil || tree.Tight(much) != "" {
		t.Errorf("%v, %q", err, tree.Tight(much))
	}
	var hinted *snapshot.Hinted
	if err := tree.Roomy(little); !errors.Is(err, snapshot.ErrNoSpace) || !errors.As(err, &hinted) || tree.Tight(little) == "" {
		t.Errorf("%v, %q", err, tree.Tight(little))
	}
}

// TestRoomFor: what several disks take of one file system is taken together.
func TestRoomFor(t *testing.T) {
	dir, limits := t.TempDir(), space.LeaveFree(1)
	tree := Tree{Disks: []Disk{{Name: "root", Path: filepath.Join(dir, "root.qcow2")}, {Name: "data", Path: filepath.Join(dir, "data.qcow2")}}}
	room, err := limits.At(dir)
	if err != nil {
		t.Fatal(err)
	}
	none, most := func(uint64) int64 { return 0 }, room.Free/4*3
	for _, c := range []struct {
		grows []int64
		due   func(uint64) int64
		want  error
	}{
		{[]int64{most, 0}, none, nil},
		{[]int64{0, most}, none, nil},
		{[]int64{most, most}, none, snapshot.ErrNoSpace},
		{[]int64{most, 0}, func(uint64) int64 { return most }, snapshot.ErrNoSpace},
	} {
		if err := tree.RoomFor(limits, c.due, c.grows); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%v: %v", c.grows, err)
		}
	}
}

// TestWhileRoomy: work goes on as long as there is room, and says why it ended when there is none.
func TestWhileRoomy(t *testing.T) {
	tree := Tree{Disks: []Disk{{Name: "root", Path: filepath.Join(t.TempDir(), "root.qcow2")}}}
	failed := errors.New("failed")
	if err := tree.WhileRoomy(t.Context(), space.LeaveFree(1), func(context.Context) error { return failed }); err != failed {
		t.Errorf("work that fails: %v", err)
	}
	err := tree.WhileRoomy(t.Context(), space.LeaveFree(1<<60), func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, snapshot.ErrNoSpace) || !errors.Is(err, context.Canceled) {
		t.Errorf("without room: %v", err)
	}
	if err := tree.WhileRoomy(t.Context(), space.LeaveFree(1<<60), func(context.Context) error { return nil }); err != nil {
		t.Errorf("work that is done at once: %v", err)
	}
}

func TestMayAdd(t *testing.T) {
	tree := Tree{Nodes: []Node{{ID: "aa", Name: "one"}, {ID: "bb", Name: "old", Parent: "aa", Gone: true}}, Now: "bb"}
	for name, c := range map[string]struct {
		n    snapshot.NewCheckpoint
		want error
	}{
		"new":             {snapshot.NewCheckpoint{Name: "two"}, nil},
		"without a name":  {snapshot.NewCheckpoint{}, nil},
		"as one was":      {snapshot.NewCheckpoint{Name: "old"}, nil},
		"as one is":       {snapshot.NewCheckpoint{Name: "one"}, snapshot.ErrExists},
		"as long as can":  {snapshot.NewCheckpoint{Name: strings.Repeat("n", MaxName)}, nil},
		"too long":        {snapshot.NewCheckpoint{Name: strings.Repeat("n", MaxName+1)}, snapshot.ErrUnsupported},
		"as an ID is":     {snapshot.NewCheckpoint{Name: "aa"}, snapshot.ErrUnsupported},
		"as one may be":   {snapshot.NewCheckpoint{Name: "20261122"}, snapshot.ErrUnsupported},
		"unlike any ID":   {snapshot.NewCheckpoint{Name: "2026-11-22"}, nil},
		"of two lines":    {snapshot.NewCheckpoint{Name: "a\nb"}, snapshot.ErrUnsupported},
		"deep enough":     {snapshot.NewCheckpoint{Name: "two", MaxDepth: 2}, snapshot.ErrUnsupported},
		"not deep enough": {snapshot.NewCheckpoint{Name: "two", MaxDepth: 3}, nil},
	} {
		if err := tree.MayAdd(c.n); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
