package merge

import (
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
	"github.com/lull-backup/lull/snapshot/image/vhd"
	"github.com/lull-backup/lull/snapshot/image/vhdx"
)

// format is what differs between the formats that can be merged.
type format interface {
	layer.Layer
	// writable says why the image cannot be written into.
	writable() error
	// sector is the unit in which the image is written, bytes.
	sector() int64
	writer(dev layer.Device, end int64) layer.Writer
	// newID is the identity that the image takes once it is written to.
	newID() string
	// begin gives it that identity, durably.
	begin(dev layer.Device, id string) error
}

func openFormat(f *layer.File, name snapshot.Format) (format, error) {
	tables := layer.NewCache().Layer(0)
	switch name {
	case snapshot.FormatVHD:
		v, err := vhd.Open(f, tables)
		return vhdFormat{v}, err
	case snapshot.FormatVHDX:
		v, err := vhdx.Open(f, tables)
		return vhdxFormat{v, f}, err
	}
	return nil, f.Unsupported("merge of format %q", name)
}

// mergeable refuses what others merge.
func mergeable(name snapshot.Format) error {
	switch name {
	case snapshot.FormatVHD, snapshot.FormatVHDX:
		return nil
	case snapshot.FormatQcow2:
		return snapshot.WithHint(fmt.Errorf("merge of format %q: %w", name, snapshot.ErrUnsupported), "qemu-img commit merges it")
	}
	return snapshot.WithHint(fmt.Errorf("merge of format %q: %w", name, snapshot.ErrUnsupported),
		"say with --format if it is a vhd or vhdx, whatever its name")
}

type vhdFormat struct{ *vhd.Image }

func (v vhdFormat) writable() error { return nil }

func (v vhdFormat) sector() int64 { return layer.SectorSize }

func (v vhdFormat) writer(dev layer.Device, end int64) layer.Writer {
	return vhd.NewWriter(v.Image, dev, end)
}

// newID: a VHD keeps its identity for life.
func (v vhdFormat) newID() string { return v.Identity().ID }

func (v vhdFormat) begin(layer.Device, string) error { return nil }

type vhdxFormat struct {
	*vhdx.Image
	f *layer.File
}

func (v vhdxFormat) writable() error {
	if !v.Logged() {
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("%s was not closed well, its log is to be replayed: %w", v.f.Path, snapshot.ErrUnsupported),
		"have it replayed: qemu-img check -r all -f vhdx, or attach it once in Hyper-V without the image above it")
}

func (v vhdxFormat) sector() int64 { return v.SectorSize() }

func (v vhdxFormat) writer(dev layer.Device, end int64) layer.Writer {
	return vhdx.NewWriter(v.Image, dev, end)
}

func (v vhdxFormat) newID() string { return vhdx.NewID() }

func (v vhdxFormat) begin(dev layer.Device, id string) error { return vhdx.Rename(v.Image, dev, id) }
