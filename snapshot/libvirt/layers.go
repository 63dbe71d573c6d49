package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// Between the end of a run that was cut short and its merge a user may make a snapshot of
// the domain: its definition names that layer then, and the delta lies under it. libvirt
// keeps no backing store in the definition for the next start, so the images are asked, by
// their headers; nothing is read but those.

// sameFile tells whether two paths are of one file. One that is not there is its path.
func sameFile(a, b string) bool {
	if a == b || a == "" || b == "" {
		return a == b && a != ""
	}
	x, err := os.Stat(a)
	if err != nil {
		return filepath.Clean(a) == filepath.Clean(b)
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// over tells whether a disk lies upon one of some files, in whatever depth. The error
// says why that cannot be told.
func (d listed) over(files ...string) (bool, error) {
	one := func(path string) bool {
		return slices.ContainsFunc(files, func(f string) bool { return sameFile(f, path) })
	}
	if slices.ContainsFunc(d.backing, one) {
		return true, nil
	}
	format := formatOf(d.format)
	if d.source == "" || format == "" || format == snapshot.FormatRaw { // raw is what libvirt takes it for
		return false, nil
	}
	chain, err := image.Chain(d.source, format)
	for _, layer := range chain {
		below := layer.Backing
		if below != "" && !filepath.IsAbs(below) {
			below = filepath.Join(filepath.Dir(layer.Path), below)
		}
		if one(below) { // which need not be there
			return true, nil
		}
	}
	return false, err
}

// buried fails where the layer that a definition names lies upon the delta, or upon the image
// and past the delta: neither is lull's to change then.
func buried(domain string, def diskList, p snapshot.DiskPlan) error {
	d, _ := def.disk(p.Name)
	if d.source == "" || sameFile(d.source, p.Delta) || sameFile(d.source, p.Path) {
		return nil
	}
	over, err := d.over(p.Delta, p.Path)
	if err == nil && !over {
		return nil // it has other images now, as after a restore
	}
	if err != nil {
		err = fmt.Errorf("the domain %s starts from %s, and nobody can tell whether that lies on the delta %s: %w",
			domain, d.source, p.Delta, errors.Join(err, snapshot.ErrBusy))
		return snapshot.WithHint(err, "look at it with qemu-img info --backing-chain; put the image that the domain is to start from into its definition (virsh edit "+
			snapshot.ShellWord(domain)+"), and run lull again")
	}
	name := snapshot.ShellWord(domain)
	return snapshot.WithHint(fmt.Errorf("another layer, %s, lies on the delta %s, or on its image: %w", d.source, p.Delta, snapshot.ErrBusy),
		fmt.Sprintf("merge the upper layer with the tool that made it, or: virsh start %s; virsh blockcommit %[1]s %s --active --shallow --pivot; then run lull again",
			name, snapshot.ShellWord(p.Name)))
}
