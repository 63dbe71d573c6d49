package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/image"
)

// Endings of the files of a checkpoint, after ".lull-<id>".
const (
	layerEnding  = ".checkpoint"
	ownEnding    = ".own" // what QEMU calls an image of the VM's own that lull has made
	placeEnding  = ".place"
	memoryEnding = ".memory"
	nvramEnding  = ".nvram"
)

// ownedFile is what the files of checkpoints are called, after the name of an image.
var ownedFile = regexp.MustCompile(`^(.+)\.lull-([0-9a-f]{8})\.((checkpoint|own)(\.place)?|memory(\.saving)?|nvram[0-9]+|replaced)$`)

// beside is a file of a checkpoint, beside the image of a disk.
func beside(image, id, ending string) string { return image + ".lull-" + id + ending }

func layerPath(d checkpoint.Disk, id string) string { return beside(d.Path, id, layerEnding) }

// images are the layers of a disk that the tree knows, top first: the VM's own, and those
// of checkpoints. A checkpoint that was taken back half-way may lack some.
func (c *checkpointing) images(d checkpoint.Disk) ([]string, error) {
	list := []string{d.Path}
	for _, id := range c.tree.Path(c.tree.Now) {
		path := layerPath(d, id)
		there, err := exists(path)
		if err != nil {
			return nil, err
		}
		same, err := sameFile(path, list[len(list)-1]) // two that are one by now
		if err != nil {
			return nil, err
		}
		if there && !same {
			list = append(list, path)
		}
	}
	return list, nil
}

// missing are files that a checkpoint should have.
func (c *checkpointing) missing() (list []string) {
	for i := range c.tree.Nodes {
		for _, path := range c.Paths(&c.tree.Nodes[i]) {
			if there, err := exists(path); err == nil && !there {
				list = append(list, path)
			}
		}
	}
	return list
}

// unowned are files that look like those of a checkpoint, beside the disks of the tree,
// and of no checkpoint nor of the operation under way.
func (c *checkpointing) unowned() (list []string, err error) {
	owned := map[string]bool{}
	for i := range c.tree.Nodes {
		for _, path := range c.Paths(&c.tree.Nodes[i]) {
			owned[path] = true
		}
	}
	for _, d := range c.tree.Disks {
		entries, err := os.ReadDir(filepath.Dir(d.Path))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			m := ownedFile.FindStringSubmatch(e.Name())
			path := filepath.Join(filepath.Dir(d.Path), e.Name())
			if m == nil || m[1] != filepath.Base(d.Path) || owned[path] || c.tree.Known.Files[path] != "" || slices.Contains(c.tree.Junk, path) || c.underWay(m[2]) {
				continue
			}
			list = append(list, path)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// underWay tells whether an operation under way makes files of that ID.
func (c *checkpointing) underWay(id string) bool {
	return c.tree.Op != nil && (c.tree.Op.Run == id || c.tree.Op.Node == id)
}

// imageOptions are of an image to be made.
type imageOptions struct {
	path    string
	backing string // path of the image below, in the same folder
	size    int64  // bytes; 0: as the one below, which is looked at
	like    string // whose owner and mode it gets
	wiped   bool   // in the end
}

// makeImage makes an empty qcow2 image, durably. It names the one below by its name alone,
// so that the folder can be moved.
func (h *Host) makeImage(ctx context.Context, o imageOptions) error {
	if err := os.Remove(o.path); err != nil && !errors.Is(err, os.ErrNotExist) { // of an attempt that was cut off
		return err
	}
	if o.size == 0 {
		below, err := image.Inspect(o.backing, snapshot.FormatQcow2)
		if err != nil {
			return err
		}
		o.size = below.Size
	}
	content, err := h.emptyImage(ctx, filepath.Base(o.backing), snapshot.FormatQcow2, o.size)
	if err != nil {
		return fmt.Errorf("make image %s: %w", o.path, err)
	}
	return deltaFile{path: o.path, wipe: o.wiped}.createWith(o.like, content)
}

func ownPath(d checkpoint.Disk, run string) string { return beside(d.Path, run, ownEnding) }

// readyToPlace does what place can fail at for want of room, ahead of the time.
func readyToPlace(image string) error {
	temp := image + placeEnding
	if same, err := sameFile(image, temp); err != nil || same {
		return err
	}
	if err := removeAll(temp); err != nil {
		return err
	}
	if err := os.Link(image, temp); err != nil {
		return fmt.Errorf("put image in its place: %w", spaceOr(err))
	}
	return nil
}

// place makes an image the one that the VM starts from, beside the name that it has. It can
// be repeated.
func (c *checkpointing) place(path, image string) error {
	if same, err := sameFile(image, path); err != nil || same {
		return err
	}
	if err := errors.Join(readyToPlace(image), c.setAside(path, replacedBy(image))); err != nil {
		return err
	}
	if err := durable.Rename(image+placeEnding, path, true); err != nil {
		return fmt.Errorf("put image in its place: %w", err)
	}
	return nil
}

// sameFile tells whether two names are of one file; a name that is not there is not.
func sameFile(a, b string) (bool, error) {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	if err := errors.Join(err1, err2); err != nil {
		if errors.Is(err1, os.ErrNotExist) || errors.Is(err2, os.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	return os.SameFile(x, y), nil
}

// adopt corrects what QEMU says of a VM's chains: it calls images as it opened them, and
// those of checkpoints were renamed since. A device without an id of its own is called
// after its node, which changes; the tree knows what the disk was called at first.
func (h *Host) adopt(m *monitor, f *found) error {
	if len(m.vm.Nodes) > 0 || m.vm.Manager != nil {
		return nil
	}
	c, err := h.checkpointing(m.vm.Name)
	if err != nil || len(c.tree.Nodes) == 0 && c.tree.Op == nil {
		return err
	}
	if op := c.tree.Op; op != nil {
		return snapshot.WithHint(fmt.Errorf("%s of the checkpoint %s was interrupted: %w", op.Kind, op.Node, snapshot.ErrMergePending),
			"let lull recover: lull checkpoint list "+snapshot.ShellWord(m.vm.Name)+" --recover")
	}
	for _, d := range c.tree.Disks {
		i := slices.IndexFunc(f.disks, func(x disk) bool { return realPath(x.Path) == d.Path })
		if i < 0 {
			return c.strange(fmt.Errorf("the VM has no disk %s", d.Path))
		}
		if err := c.adoptDisk(m, d, &f.disks[i]); err != nil {
			return err
		}
	}
	return nil
}

func (c *checkpointing) adoptDisk(m *monitor, d checkpoint.Disk, x *disk) error {
	images, err := c.images(d)
	if err != nil {
		return err
	}
	if len(x.layers) < len(images) {
		return c.strange(fmt.Errorf("disk %s has %d images, and its checkpoints make %d", d.Name, len(x.layers), len(images)))
	}
	x.Name = d.Name
	for i, path := range images {
		info, err := os.Stat(path)
		if err != nil {
			return c.strange(err)
		}
		if is, known := m.proc.opened(info); known && !is {
			return c.strange(fmt.Errorf("QEMU does not have %s open", path))
		}
		x.layers[i] = snapshot.Layer{Path: path, Format: snapshot.FormatQcow2}
	}
	return nil
}

// strange: the VM runs from other images than its tree says.
func (c *checkpointing) strange(err error) error {
	return snapshot.WithHint(fmt.Errorf("the VM does not run as its checkpoints say: %w: %w", err, snapshot.ErrDiverged),
		"start it from the images that `lull checkpoint list` names, or move "+snapshot.ShellWord(c.path)+" away if its checkpoints are given up")
}

// realPath is a path without links, or as it is.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// plainStart fails where the VM's command line would not start it from the images of its
// checkpoints: what it says of images below goes before what the images say.
func (m *monitor) plainStart() error {
	line := m.proc.commandLine()
	if len(line) == 0 {
		return fmt.Errorf("QEMU's command line cannot be seen: %w", snapshot.ErrUnsupported)
	}
	for _, o := range parseOptions(line) {
		kv := parseKeyval(o.value, false)
		nested := slices.ContainsFunc(kv.pairs, func(p pair) bool { return p.key == "backing" || strings.HasPrefix(p.key, "backing.") })
		switch {
		case o.name == "snapshot", o.name == "drive" && kv.get("snapshot") == "on":
			return fmt.Errorf("it was started with -snapshot, its disks are temporary: %w", snapshot.ErrUnsupported)
		case (o.name == "blockdev" || o.name == "drive") && nested:
			return snapshot.WithHint(fmt.Errorf("its command line names the image below a disk (-%s %s): %w", o.name, o.value, snapshot.ErrUnsupported),
				"leave backing away: QEMU finds the image that the disk's own file names")
		}
	}
	return nil
}
