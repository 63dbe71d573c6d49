package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// Info is what the header of an image says.
type Info struct {
	Path          string
	Format        snapshot.Format
	Size          int64  // virtual; of qcow2 a multiple of 512
	ClusterSize   int64  // 0 for raw
	Version       int    // of qcow2
	Backing       string // as the image names it; empty for none
	BackingFormat string // as the image declares it; empty when it does not
	Dirty         bool   // reference counts may be wrong; reading does not need them
	Snapshots     int    // internal snapshots, which lull ignores
}

// Inspect reads the header of an image, which may be in use. Errors:
// snapshot.ErrCorrupt, ErrUnsupported, and those of opening a file.
func Inspect(path string, format snapshot.Format) (Info, error) {
	info, f, err := inspect(path, format)
	if err != nil {
		return Info{}, fmt.Errorf("inspect image: %w", err)
	}
	f.Close()
	return info, nil
}

func inspect(path string, format snapshot.Format) (Info, *file, error) {
	f, err := openFile(path)
	if err != nil {
		return Info{}, nil, err
	}
	info, err := f.inspect(format)
	if err != nil {
		f.Close()
		return Info{}, nil, err
	}
	return info, f, nil
}

func (f *file) inspect(format snapshot.Format) (Info, error) {
	switch format {
	case snapshot.FormatRaw:
		return Info{Path: f.path, Format: format, Size: virtualSize(format, f.size)}, nil
	case snapshot.FormatQcow2:
		h, err := readHeader(f)
		return Info{
			Path: f.path, Format: format, Size: virtualSize(format, h.size), ClusterSize: 1 << h.clusterBits,
			Version: h.version, Backing: h.backing, BackingFormat: h.backingFormat,
			Dirty: h.features&featureDirty != 0, Snapshots: h.snapshots,
		}, err
	}
	return Info{}, f.unsupported("format %q", format)
}

// ResolveChain finds the layers of a loose image, top first, by its headers. A
// name in a header is taken from the folder of the image that holds it. An image
// that does not declare the format of its backing file is refused with a hint:
// probing would let the guest choose. Loops and chains of more than MaxDepth
// layers are snapshot.ErrCorrupt.
func ResolveChain(path string, format snapshot.Format) ([]snapshot.Layer, error) {
	layers, err := resolve(snapshot.Layer{Path: path, Format: format})
	if err != nil {
		return nil, fmt.Errorf("resolve chain of %s: %w", path, err)
	}
	return layers, nil
}

func resolve(next snapshot.Layer) ([]snapshot.Layer, error) {
	var layers []snapshot.Layer
	var seen []os.FileInfo
	for {
		info, f, err := inspect(next.Path, next.Format)
		if err != nil {
			return nil, err
		}
		stat, err := f.Stat()
		f.Close()
		if err != nil {
			return nil, err
		}
		for _, other := range seen {
			if os.SameFile(stat, other) {
				return nil, f.corrupt("image is its own backing file")
			}
		}
		layers, seen = append(layers, next), append(seen, stat)
		if info.Backing == "" {
			return layers, nil
		}
		if len(layers) == MaxDepth {
			return nil, f.corrupt("chain of more than %d layers", MaxDepth)
		}
		if next, err = below(f, info); err != nil {
			return nil, err
		}
	}
}

// below is the layer that an image names as its backing file.
func below(f *file, info Info) (snapshot.Layer, error) {
	name, format := info.Backing, snapshot.Format(info.BackingFormat)
	if before, _, found := strings.Cut(name, ":"); found && !strings.Contains(before, "/") {
		return snapshot.Layer{}, f.unsupported("backing file %q is no file", name)
	}
	if format == "" {
		return snapshot.Layer{}, snapshot.WithHint(
			f.unsupported("image does not say which format its backing file %q has", name),
			fmt.Sprintf("declare it: qemu-img rebase -u -b %s -F FORMAT %s", shellWord(name), shellWord(info.Path)))
	}
	if format != snapshot.FormatRaw && format != snapshot.FormatQcow2 {
		return snapshot.Layer{}, f.unsupported("backing file %q of format %q", name, info.BackingFormat)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(info.Path), name)
	}
	return snapshot.Layer{Path: name, Format: format}, nil
}

// shellWord quotes s for a command that the administrator may copy. The name
// comes out of an image: it must not bring its own commands.
func shellWord(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
