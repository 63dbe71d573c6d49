package image

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
	"github.com/lull-backup/lull/snapshot/image/vhd"
	"github.com/lull-backup/lull/snapshot/image/vhdx"
	"github.com/lull-backup/lull/snapshot/image/vmdk"
)

// opener opens the images of one chain.
type opener struct {
	lock   bool // against writers, until close
	halves bool // opens an image, too, that a merge is writing into
	cache  *layer.Cache
	inflat *inflater
	images []*openImage
}

// openImage is an image that is open for reading.
type openImage struct {
	layer.Layer
	info  Info
	files []*layer.File // the first is the one that was named
}

func newOpener(lock bool) *opener {
	return &opener{lock: lock, cache: layer.NewCache(), inflat: &inflater{}}
}

// open opens the next image of the chain.
func (o *opener) open(l snapshot.Layer) (*openImage, error) {
	i := &openImage{info: Info{Path: l.Path, Format: l.Format}}
	o.images = append(o.images, i)
	f, err := o.file(i, l.Path)
	if err == nil && !o.halves {
		err = unfinished(l.Path)
	}
	if err != nil {
		return nil, err
	}
	tables := o.cache.Layer(len(o.images) - 1)
	switch l.Format {
	case snapshot.FormatRaw:
		i.Layer = layer.Flat{File: f, Length: f.Size}
	case snapshot.FormatQcow2:
		err = i.qcow2(f, tables, o.inflat)
	case snapshot.FormatVHD:
		err = i.vhd(f, tables)
	case snapshot.FormatVHDX:
		err = i.vhdx(f, tables)
	case snapshot.FormatVMDK:
		err = i.vmdk(f, tables, o.beside(i))
	default:
		err = f.Unsupported("format %q", l.Format)
	}
	if err != nil {
		return nil, err
	}
	i.info.Size = virtualSize(l.Format, i.Layer.Size())
	return i, nil
}

// file opens one file of an image.
func (o *opener) file(i *openImage, path string) (*layer.File, error) {
	f, err := layer.Open(path)
	if err != nil {
		return nil, err
	}
	i.files = append(i.files, f)
	if o.lock {
		return f, lockForReading(f.File)
	}
	return f, nil
}

// beside opens a file that an image names: only in the image's own folder.
func (o *opener) beside(i *openImage) vmdk.Beside {
	return func(name string) (*layer.File, error) {
		if name == "" || len(name) > 255 || name == "." || name == ".." || strings.ContainsAny(name, "/\\\x00") {
			return nil, i.files[0].Unsupported("it names %q, which is not in its own folder", name)
		}
		return o.file(i, filepath.Join(filepath.Dir(i.info.Path), name))
	}
}

// close closes every file, and gives the locks back.
func (o *opener) close() error {
	var errs []error
	for _, i := range o.images {
		for _, f := range i.files {
			errs = append(errs, f.Close())
		}
		i.files = nil
	}
	return errors.Join(errs...)
}

func (i *openImage) qcow2(f *layer.File, tables layer.Tables, inflat *inflater) error {
	h, err := readHeader(f)
	if err != nil {
		return err
	}
	i.Layer = &qcow2{f: f, h: h, tables: tables, inflat: inflat}
	i.info.ClusterSize, i.info.Version = 1<<h.clusterBits, h.version
	i.info.Backing, i.info.BackingFormat = h.backing, h.backingFormat
	i.info.Dirty, i.info.Snapshots = h.features&featureDirty != 0, h.snapshots
	return nil
}

func (i *openImage) vhd(f *layer.File, tables layer.Tables) error {
	v, err := vhd.Open(f, tables)
	if err != nil {
		return err
	}
	i.Layer = v
	i.info.Kind, i.info.ClusterSize, i.info.Stamp = string(v.Kind()), v.BlockSize(), vhd.Time(v.Stamp())
	if stamp := v.ParentStamp(); stamp != 0 {
		i.info.ParentStamp = vhd.Time(stamp)
	}
	i.descends(v.Parents())
	return nil
}

func (i *openImage) vhdx(f *layer.File, tables layer.Tables) error {
	v, err := vhdx.Open(f, tables)
	if err != nil {
		return err
	}
	i.Layer = v
	i.info.Kind, i.info.ClusterSize, i.info.Dirty = v.Kind(), v.BlockSize(), v.Logged()
	i.descends(v.Parents())
	return nil
}

func (i *openImage) vmdk(f *layer.File, tables layer.Tables, beside vmdk.Beside) error {
	if err := notInVMware(f.Path); err != nil {
		return err
	}
	v, err := vmdk.Open(f, tables, beside)
	if err != nil {
		return err
	}
	i.Layer = v
	i.info.Kind, i.info.ClusterSize, i.info.Dirty = v.Kind(), v.BlockSize(), v.Unclean()
	i.descends(v.Parents())
	return nil
}
