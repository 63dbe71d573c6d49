package repo

import (
	"encoding/hex"
	"errors"
	"iter"
	"slices"
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
	// ParentHash is that of the parent's object, so that nobody can put another in
	// its place, or leave it out. Heads does the same for other VMs' points.
	ParentHash Hash   `json:"parent_hash,omitzero"`
	Heads      []Head `json:"heads,omitempty"`
	// SignedBy is the label of the key that made the point; what a point says itself
	// of that is not believed.
	SignedBy string `json:"signed_by,omitempty"`
	// Signer is that key itself, as Key.Signer: a label may be given again. Only who reads
	// the point's object, or has made it, knows; empty in format 1.
	Signer string `json:"-"`
	// Believed: the key that opened the repository has made the point, or one that
	// maintains, and it was not removed since; or it is of format 1. What other points say
	// of where they come from is the word of their makers only.
	Believed bool `json:"-"`
	// Deduplicated is the domain whose packs the point builds on; "" for all.
	Deduplicated string `json:"deduplicated,omitempty"`
	// Removed stands for the keys of that domain that had been removed when the session of
	// the point began; zero for none. Once more are the point is no parent.
	Removed Hash `json:"removed,omitzero"`
	// Origin is where a point comes from that was copied from another repository.
	Origin *Origin `json:"origin,omitempty"`
	// Frozen is the instant that the point shows, by the host's clock, in UTC.
	Frozen   time.Time           `json:"frozen"`
	Agent    string              `json:"agent"` // version of lull
	Hardware snapshot.Hardware   `json:"hardware"`
	Disks    []Disk              `json:"disks"`
	Excluded []snapshot.Excluded `json:"excluded,omitempty"`
	Files    []File              `json:"files,omitempty"`
	Quiesce  quiesce.Report      `json:"quiesce"`
	Stats    Stats               `json:"stats"`
	// Hash is that of the object that the point was read from.
	Hash Hash `json:"-"`
	// Mark is the newest mark of maintenance that the point's session knew of: the point
	// needs no pack of that one.
	Mark uint64 `json:"mark,omitempty"`
}

// Head is the newest point of another VM that a host knew when it made a point, or the last
// that it had made itself of this one or another: the object's name below points/, and its hash.
type Head struct {
	Point string `json:"point"`
	Hash  Hash   `json:"hash"`
}

// Hash is BLAKE3 of an object.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes lower-case hex.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return errHash
	}
	_, err := hex.Decode(h[:], b)
	return err
}

var errHash = errors.New("a hash has 64 digits")

// outline is what maintenance may know of a point: where its maps are, how it is chained
// and whose copy it is, which rules ask for; and nothing of the machine.
type outline struct {
	ID         string    `json:"id"`
	VM         string    `json:"vm"`
	Parent     string    `json:"parent,omitempty"`
	ParentHash Hash      `json:"parent_hash,omitzero"`
	Heads      []Head    `json:"heads,omitempty"`
	Origin     *Origin   `json:"origin,omitempty"`
	Frozen     time.Time `json:"frozen"`
	Roots      []Root    `json:"roots"`
}

func outlineOf(p *Point) outline {
	return outline{
		ID: p.ID, VM: p.VM, Parent: p.Parent, ParentHash: p.ParentHash, Heads: p.Heads,
		Origin: p.Origin, Frozen: p.Frozen, Roots: slices.Collect(p.roots()),
	}
}

// point is the point as far as the outline tells.
func (o *outline) point() Point {
	p := Point{ID: o.ID, VM: o.VM, Parent: o.Parent, ParentHash: o.ParentHash, Heads: o.Heads, Origin: o.Origin, Frozen: o.Frozen}
	for _, root := range o.Roots {
		p.Disks = append(p.Disks, Disk{Root: root})
	}
	return p
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
	// Encrypted: by the hypervisor, under the disk's format. The point has what the guest sees.
	Encrypted bool     `json:"encrypted,omitempty"`
	Tracking  Tracking `json:"tracking,omitzero"`
}

// Tracking is how it was known what to read of a disk, and will be the next time.
type Tracking struct {
	// Record is what the host calls that which says what changes from this point on;
	// empty: nothing does.
	Record string `json:"record,omitempty"`
	// Used: only what the record of the point before said to have changed was read,
	// Changed bytes of it; the rest is as in the point before.
	Used    bool   `json:"used,omitempty"`
	Changed int64  `json:"changed,omitempty"`
	Reason  string `json:"reason,omitempty"` // why all was read
	// Untrue is how many bytes differ from the point before although the record said
	// otherwise. This point is right all the same.
	Untrue int64 `json:"untrue,omitempty"`
	// Doubted: a record was untrue, here or before, and none was proven by an audit
	// since. The next run that has one is an audit.
	Doubted bool `json:"doubted,omitempty"`
	// Whole is when the disk was last read whole, at this point or one before.
	Whole time.Time `json:"whole,omitzero"`
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
