package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

// FindParent finds the parent of an image in a format that names parents by their
// identity, as ResolveChain does, without opening it. The path is empty for an image
// that was made on nothing.
func FindParent(path string, format snapshot.Format, parents ...string) (child Info, parentPath string, err error) {
	i, closing, err := inspect(snapshot.Layer{Path: path, Format: format})
	if err != nil {
		return Info{}, "", fmt.Errorf("inspect image: %w", err)
	}
	defer closing()
	if i.info.ParentID == "" {
		return i.info, "", nil
	}
	l, err := parent(i.files[0], i.info, parents)
	if err != nil {
		return Info{}, "", fmt.Errorf("find parent: %w", err)
	}
	return i.info, l.Path, nil
}

// parent finds the parent of an image that knows it by its identity. Where it was
// for the machine that made the image is of no use here, and not to be followed.
func parent(f *layer.File, info Info, parents []string) (snapshot.Layer, error) {
	if path := named(info, parents); path != "" {
		return snapshot.Layer{Path: path, Format: info.Format}, nil
	}
	path := filepath.Join(filepath.Dir(info.Path), info.Backing)
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = snapshot.WithHint(
			fmt.Errorf("%s: its parent %q is not in its folder: %w", f.Path, info.Backing, fs.ErrNotExist),
			"put it there, or name it with --parent PATH; it was made on "+strings.Join(info.ParentPaths, " or "))
	}
	return snapshot.Layer{Path: path, Format: info.Format}, err
}

// named is the parent among the images that the administrator names: by its name, or,
// where it was given another, by its identity. Empty for none.
func named(info Info, parents []string) string {
	for _, p := range parents {
		if strings.EqualFold(filepath.Base(p), info.Backing) {
			return p
		}
	}
	for _, p := range parents {
		// One that cannot be read is not it. Where it should be, its absence will tell.
		if i, closing, err := inspect(snapshot.Layer{Path: p, Format: info.Format}); err == nil {
			closing()
			if i.info.ID == info.ParentID {
				return p
			}
		}
	}
	return ""
}

// descends notes whom an image names as its parent: by any of some paths, of
// which only the last part counts.
func (i *openImage) descends(paths []string) {
	i.info.ID, i.info.ParentID = i.Identity().ID, i.Identity().Parent
	if i.info.ParentID == "" {
		return
	}
	i.info.ParentPaths, i.info.BackingFormat = paths, string(i.info.Format)
	for _, p := range paths {
		name := p[strings.LastIndexAny(p, `/\`)+1:]
		if name != "" && name != "." && name != ".." && !strings.ContainsRune(name, 0) {
			i.info.Backing = name
			return
		}
	}
	i.info.Backing = "(unnamed)"
}

// fits sees that an image is the one that the image above it was made on.
func (i *openImage) fits(above *openImage) error {
	want := above.info.ParentID
	if want == "" || want == i.info.ID {
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("%s is not what %s was made on: it has %s, not %s: %w", i.info.Path, above.info.Path, orNone(i.info.ID), want, snapshot.ErrCorrupt),
		"find the parent as it was when the image above it was made; one that was written to since does not serve")
}

// doubt says why an image that fits may have been written to since the image above
// it was made; empty for no reason. The time that a VHD keeps of its parent is that of
// the parent's file, which many ways to copy it change, or, of some programs, that in
// the parent's footer.
func (i *openImage) doubt(above *openImage) (string, error) {
	want := above.info.ParentStamp
	if want.IsZero() {
		return "", nil
	}
	stat, err := i.files[0].Stat()
	if err != nil {
		return "", err
	}
	const precision = 2 * time.Second // of FAT
	if i.info.Stamp.Equal(want) || stat.ModTime().Sub(want).Abs() <= precision {
		return "", nil
	}
	return fmt.Sprintf("%s was changed at %s, but %s was made on it as of %s: it was copied, or written to since",
		i.info.Path, stat.ModTime().UTC().Format(time.DateTime), above.info.Path, want.Format(time.DateTime)), nil
}

// Doubts are the reasons not to trust a chain, top first, whose images fit by their
// identities: of VHD, whose identity does not change with its content.
func Doubts(layers []snapshot.Layer) ([]string, error) {
	o := newOpener(false)
	defer o.close()
	var list []string
	for n, l := range layers {
		i, err := o.open(l)
		if err != nil {
			return nil, fmt.Errorf("look at chain: %w", err)
		}
		if n == 0 {
			continue
		}
		why, err := i.doubt(o.images[n-1])
		if err != nil {
			return nil, fmt.Errorf("look at chain: %w", err)
		}
		if why != "" {
			list = append(list, why)
		}
	}
	return list, nil
}

func orNone(id string) string {
	if id == "" {
		return "no identity"
	}
	return id
}
