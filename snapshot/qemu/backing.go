package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/image"
)

// Images belong to QEMU's user, who can rewrite their headers. One names the image below,
// and a file that holds the data in the image's place: qemu-img, which root runs, would
// write the delta into any file of that user's choice. So what is below is never left to the
// header. It has to say what lull knows, and qemu-img is told all the same, in case it changes
// after that look. For a data file there is no way to tell it that there is none: images
// that have one are refused. And what is made new is made where that user cannot reach.

// restsOn fails where the header of a qcow2 image names another image below than it should.
func restsOn(path string, below snapshot.Layer) error {
	info, err := image.Inspect(path, snapshot.FormatQcow2)
	if err != nil {
		return err
	}
	same := info.Backing == below.Path
	if !same && info.Backing != "" {
		named := info.Backing
		if !filepath.IsAbs(named) {
			named = filepath.Join(filepath.Dir(path), named)
		}
		if same, err = sameFile(named, below.Path); err != nil {
			return err
		}
	}
	if same && info.BackingFormat == string(below.Format) {
		return nil
	}
	err = fmt.Errorf("the header of %s names %q (%s) below it, and not %s (%s): %w",
		path, info.Backing, info.BackingFormat, below.Path, below.Format, snapshot.ErrCorrupt)
	return snapshot.WithHint(err, fmt.Sprintf("find out who has rewritten it; where its content is to be trusted all the same, put the header right: qemu-img rebase -u -f qcow2 -b %s -F %s %s",
		snapshot.ShellWord(below.Path), below.Format, snapshot.ShellWord(path)))
}

// ownData fails where a qcow2 image does not hold its own data, or is none that lull knows.
func ownData(layers ...snapshot.Layer) error {
	for _, l := range layers {
		if l.Format != snapshot.FormatQcow2 || !filepath.IsAbs(l.Path) {
			continue
		}
		if _, err := image.Inspect(l.Path, l.Format); err != nil {
			return snapshot.WithHint(err, "where it was like that before, start the VM from it and its delta: lull merges them while it runs")
		}
	}
	return nil
}

// maxEmpty bounds an image without content: the first table of 64 TiB, several times over.
const maxEmpty = 16 << 20

// emptyImage is a qcow2 image that holds nothing and names the one below. qemu-img makes it
// in a folder of its own: in that of the disk another file could be put in its place.
func (h *Host) emptyImage(ctx context.Context, below string, format snapshot.Format, size int64) (content []byte, err error) {
	dir, err := os.MkdirTemp("", "lull-image-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "image")
	if err := h.qemuImg(ctx, "create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", string(format), path, strconv.FormatInt(size, 10)); err != nil {
		return nil, err
	}
	return durable.ReadFile(path, maxEmpty)
}

// imageNode is how QEMU is told of an image.
type imageNode struct {
	Driver  snapshot.Format `json:"driver"`
	Discard string          `json:"discard,omitempty"`
	File    args            `json:"file"`
	Backing any             `json:"backing,omitempty"`
}

var errNotNamed = errors.New("a layer is no file, or of a format without a name")

// described names a chain of files to qemu-img, top first, so that it looks into no header
// for what is below. whole: there is nothing below the last.
func described(layers []snapshot.Layer, whole bool) (string, error) {
	return describedAs(layers, whole, "")
}

// describedAs is described, and says what becomes of what is overwritten with zeros; empty: as
// the program has it.
func describedAs(layers []snapshot.Layer, whole bool, discard string) (string, error) {
	var below any
	if whole {
		below = json.RawMessage("null")
	}
	for i := len(layers) - 1; i >= 0; i-- {
		l := layers[i]
		if !filepath.IsAbs(l.Path) || l.Format == "" {
			return "", errNotNamed
		}
		below = imageNode{Driver: l.Format, Discard: discard, File: args{"filename": l.Path}, Backing: below}
	}
	text, err := json.Marshal(below)
	return "json:" + string(text), err
}

// onto are the arguments by which qemu-img opens a delta upon its image. Layers that are no
// files, which QEMU alone can name, are left to the headers.
func onto(d snapshot.DiskPlan, below snapshot.Layer) []string {
	layers := append([]snapshot.Layer{{Path: d.Delta, Format: snapshot.FormatQcow2}, below}, d.Chain[1:]...)
	name, err := described(layers, true)
	if err != nil {
		name, err = described(layers[:2], false)
	}
	if err != nil {
		return []string{"-f", "qcow2", d.Delta}
	}
	return []string{name}
}
