package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

// Info is what the header of an image says.
type Info struct {
	Path          string
	Format        snapshot.Format
	Kind          string // of formats that have several, such as "dynamic"; empty for others
	Size          int64  // virtual; but for raw a multiple of 512
	ClusterSize   int64  // or that of blocks; 0 for raw
	Version       int    // of qcow2
	Backing       string // as the image names it, of VHD and its like without the folder; empty for none
	BackingFormat string // as the image declares it; empty when it does not
	Dirty         bool   // of qcow2: reference counts may be wrong; reading does not need them. Of VHDX and VMDK: it was not closed well
	Snapshots     int    // internal snapshots, which lull ignores

	// Of formats that keep them: who the image is, whom it was made on, and where
	// that one was for whoever made it.
	ID          string
	ParentID    string
	ParentPaths []string

	// Of VHD, whose ID does not change with its content: when it was made or
	// changed, and when the parent had been changed last. Zero where unknown.
	Stamp       time.Time
	ParentStamp time.Time
}

// Inspect reads the header of an image, which may be in use. Errors:
// snapshot.ErrCorrupt, ErrUnsupported, and those of opening a file.
func Inspect(path string, format snapshot.Format) (Info, error) {
	i, closing, err := inspect(snapshot.Layer{Path: path, Format: format})
	if err != nil {
		return Info{}, fmt.Errorf("inspect image: %w", err)
	}
	defer closing()
	return i.info, nil
}

// inspect opens an image for a look; closing ends that.
func inspect(l snapshot.Layer) (i *openImage, closing func() error, err error) {
	o := newOpener(false)
	if i, err = o.open(l); err != nil {
		o.close()
		return nil, nil, err
	}
	return i, o.close, nil
}

// ResolveChain finds the layers of a loose image, top first, by its headers. A
// name in a qcow2 header is taken from the folder of the image that holds it, and
// an image that does not declare the format of its backing file is refused with a
// hint: probing would let the guest choose. VHD, VHDX and VMDK name parents by the
// paths of the machine that made them, of which only the file's name counts: it is
// looked for among parents, which the administrator names, and then beside the
// image. Loops and chains of more than MaxDepth layers are snapshot.ErrCorrupt, and
// so is a parent that is not the one that the image was made on.
func ResolveChain(path string, format snapshot.Format, parents ...string) ([]snapshot.Layer, error) {
	chain, err := resolve(newOpener(false), snapshot.Layer{Path: path, Format: format}, parents)
	if err != nil {
		return nil, fmt.Errorf("resolve chain of %s: %w", path, err)
	}
	layers := make([]snapshot.Layer, len(chain))
	for n, info := range chain {
		layers[n] = snapshot.Layer{Path: info.Path, Format: info.Format}
	}
	return layers, nil
}

// Chain is what the images of a chain say of themselves, top first, as far as it can
// be followed; the error says why no further. Images into which a merge was not
// finished are among them.
func Chain(path string, format snapshot.Format, parents ...string) ([]Info, error) {
	o := newOpener(false)
	o.halves = true
	chain, err := resolve(o, snapshot.Layer{Path: path, Format: format}, parents)
	if err != nil {
		return chain, fmt.Errorf("resolve chain of %s: %w", path, err)
	}
	return chain, nil
}

func resolve(o *opener, next snapshot.Layer, parents []string) ([]Info, error) {
	defer o.close()
	var chain []Info
	var seen []os.FileInfo
	for {
		i, err := o.open(next)
		if err != nil {
			return chain, err
		}
		stat, err := i.files[0].Stat()
		if err != nil {
			return chain, err
		}
		for _, other := range seen {
			if os.SameFile(stat, other) {
				return chain, i.files[0].Corrupt("image is its own backing file")
			}
		}
		n := len(chain)
		chain, seen = append(chain, i.info), append(seen, stat)
		if n > 0 {
			if err := i.fits(o.images[n-1]); err != nil {
				return chain, err
			}
		}
		if i.info.Backing == "" {
			return chain, nil
		}
		if len(chain) == MaxDepth {
			return chain, i.files[0].Corrupt("chain of more than %d layers", MaxDepth)
		}
		if next, err = below(i.files[0], i.info, parents); err != nil {
			return chain, err
		}
	}
}

// below is the layer that an image names as its backing file.
func below(f *layer.File, info Info, parents []string) (snapshot.Layer, error) {
	if info.ParentID != "" {
		return parent(f, info, parents)
	}
	name, format := info.Backing, snapshot.Format(info.BackingFormat)
	if before, _, found := strings.Cut(name, ":"); found && !strings.Contains(before, "/") {
		return snapshot.Layer{}, f.Unsupported("backing file %q is no file", name)
	}
	if format == "" {
		return snapshot.Layer{}, snapshot.WithHint(
			f.Unsupported("image does not say which format its backing file %q has", name),
			fmt.Sprintf("declare it: qemu-img rebase -u -b %s -F FORMAT %s", shellWord(name), shellWord(info.Path)))
	}
	if format != snapshot.FormatRaw && format != snapshot.FormatQcow2 {
		return snapshot.Layer{}, f.Unsupported("backing file %q of format %q", name, info.BackingFormat)
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
