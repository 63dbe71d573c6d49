package tree

import (
	"fmt"

	"github.com/lull-backup/lull/transport/block"
)

const (
	// Fanout is the number of children of a node.
	Fanout = 128
	// MaxDepth is the number of levels above the leaves, at most.
	MaxDepth = 4
	// MaxSize bounds a stream in bytes: 1 PiB.
	MaxSize = Fanout * Fanout * Fanout * Fanout * int64(block.WindowSize)
)

// Root is the tree of one stream.
type Root struct {
	Size  int64
	Node  block.Name
	Depth int
	Data  int64 // bytes in blocks
}

// Ref points to a node or leaf.
type Ref struct {
	Name block.Name // zero: all zeros
	Data int64      // bytes in blocks under it
}

// possible tells whether r can stand for so many windows.
func (r Ref) possible(windows int64) bool {
	return r.Name.IsZero() == (r.Data == 0) && r.Data >= 0 && r.Data <= windows*block.WindowSize
}

// Check fails when r cannot be the root of a tree.
func (r Root) Check() error {
	if r.Size < 0 || r.Size > MaxSize {
		return fmt.Errorf("stream of %d bytes: 0 to %d allowed", r.Size, MaxSize)
	}
	if want := Depth(r.Size); r.Depth != want && !r.Node.IsZero() {
		return fmt.Errorf("map of %d levels for %d bytes, want %d", r.Depth, r.Size, want)
	}
	if ref := (Ref{r.Node, r.Data}); !ref.possible(Windows(r.Size)) {
		return fmt.Errorf("map of %d bytes says that it holds %d", r.Size, r.Data)
	}
	return nil
}

// Windows is the number of windows of a stream.
func Windows(size int64) int64 { return (size + block.WindowSize - 1) / block.WindowSize }

// WindowLen is the length of a window in bytes: the last one may be short.
func WindowLen(size, window int64) int {
	return int(min(size-window*block.WindowSize, block.WindowSize))
}

// Depth is the number of levels above the leaves of a stream's tree.
func Depth(size int64) int {
	depth := 0
	for span(depth) < Windows(size) {
		depth++
	}
	return depth
}

// span is the number of windows under a node of a level.
func span(level int) int64 {
	n := int64(1)
	for range level {
		n *= Fanout
	}
	return n
}

// clip is how many of the windows under a node exist in a stream of so many.
func clip(level int, index, windows int64) int64 {
	return max(0, min(span(level), windows-index*span(level)))
}
