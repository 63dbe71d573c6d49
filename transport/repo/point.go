package repo

import (
	"iter"
	"time"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/block"
)

// Point is a restore point: one backup of one VM. It is what a manifest holds.
type Point struct {
	// ID is unique in the repository and sorts by time:
	// 20261121T013000Z-9f86d081.
	ID string `json:"id"`
	// VM is the name under which the point is found: host/name, or the bare
	// name of a loose image.
	VM     string `json:"vm"`
	Parent string `json:"parent,omitempty"` // the VM's point before this one
	// Frozen is the instant that the point shows, by the host's clock, in UTC.
	Frozen   time.Time           `json:"frozen"`
	Agent    string              `json:"agent"` // version of lull
	Hardware snapshot.Hardware   `json:"hardware"`
	Disks    []Disk              `json:"disks"`
	Excluded []snapshot.Excluded `json:"excluded,omitempty"`
	Files    []File              `json:"files,omitempty"`
	Quiesce  quiesce.Report      `json:"quiesce"`
	Stats    Stats               `json:"stats"`
}

// roots are the maps of the point's disks and files.
func (p *Point) roots() iter.Seq[Root] {
	return func(yield func(Root) bool) {
		for _, d := range p.Disks {
			if !yield(d.Root) {
				return
			}
		}
		for _, f := range p.Files {
			if !yield(f.Root) {
				return
			}
		}
	}
}

// Disk is one disk of a point.
type Disk struct {
	snapshot.Disk
	Root Root `json:"root"`
}

// File is one small file of a point, such as the NVRAM.
type File struct {
	snapshot.File
	Root Root `json:"root"`
}

// Root is the map of one stream of bytes: a disk or a file.
type Root struct {
	Size  int64      `json:"size"`            // bytes
	Node  block.Name `json:"node,omitzero"`   // top node; the zero name: all zeros
	Depth int        `json:"depth,omitempty"` // levels above the leaves
	// Data is how many bytes are in blocks, that is, what a sparse copy takes.
	Data int64 `json:"data"`
}

// Stats is what a session did.
type Stats struct {
	Read      int64 `json:"read"`         // bytes of disks read, holes left out
	Zero      int64 `json:"zero"`         // bytes known or found to be zero
	Dedup     int64 `json:"deduplicated"` // bytes that the repository held already
	New       int64 `json:"new"`          // bytes of new blocks, before compression
	Stored    int64 `json:"stored"`       // bytes put into the store, all objects
	Blocks    int64 `json:"blocks"`       // blocks met
	NewBlocks int64 `json:"new_blocks"`
	Requests  int64 `json:"requests"` // to the store
	Objects   int64 `json:"objects"`  // created
}
