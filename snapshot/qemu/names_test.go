package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// Two disks that share a folder share no name in it.
func TestFolderStems(t *testing.T) {
	t.Parallel()
	named := func(name, vm, disk string) string { return (&Host{opt: Options{Name: name}}).inFolder(vm, disk) }
	seen := map[string]bool{}
	for _, stem := range []string{named("", "a-b", "c"), named("", "a", "b-c"), named("a", "b", "c"), named("", "a+b", "c"), named("", "a", "b+c"), named("a-b", "c", "d"), named("a", "b-c", "d")} {
		if seen[stem] {
			t.Errorf("%s is the stem of two", stem)
		}
		seen[stem] = true
	}
}

// A link beside an image is followed to a delta of this very disk, and to nothing else.
func TestForeignLink(t *testing.T) {
	t.Parallel()
	i := images{t, t.TempDir()}
	const ending = ".lull-20260101T000000Z-01234567.delta"
	vm := VM{Name: "web"}
	h := &Host{}
	d := disk{Disk: snapshot.Disk{Name: "root", Path: i.raw("image")}, regular: true}
	link := d.Path + ending
	must(t, os.Mkdir(i.at("deltas"), 0o700))
	for base, want := range map[string]string{
		h.inFolder("web", "root") + ending:                                  i.at("deltas/web+root" + ending),
		h.inFolder("web", "data") + ending:                                  link,
		h.inFolder("web", "root") + ".lull-20260101T000000Z-89abcdef.delta": link,
		"shadow": link,
	} {
		target := i.raw(filepath.Join("deltas", base))
		must(t, os.Symlink(target, link))
		list, err := h.besides(vm, d)
		if err != nil || len(list) != 1 || list[0] != want {
			t.Errorf("a link to %s: %v, %v", base, list, err)
		}
		s := &survey{host: h}
		s.beside(d, link)
		if f := s.found[0]; f.Path != link || f.Next != "rm "+snapshot.ShellWord(link) {
			t.Errorf("a link to %s: %+v", base, f)
		}
		must(t, os.Remove(link))
	}
}
