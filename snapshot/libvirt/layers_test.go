package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// A definition may name the run's files, images of its own, or a layer upon the run's: that
// is found by the definition or by the images, and never guessed.
func TestBuried(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	create := func(name, backing string) {
		args := []string{"create", "-q", "-f", "qcow2"}
		if backing != "" {
			args = append(args, "-u", "-b", backing, "-F", "qcow2")
		}
		shell(t, "qemu-img", append(args, at(name), "1M")...)
	}
	create("image", "")
	create("delta", at("image"))
	create("user", "delta")
	create("user2", at("user"))
	create("aside", at("image"))
	create("own", "")
	create("loose", at("nowhere"))
	if err := errors.Join(os.Symlink(at("delta"), at("link")), os.WriteFile(at("raw"), make([]byte, 512), 0o600)); err != nil {
		t.Fatal(err)
	}
	p := snapshot.DiskPlan{Disk: snapshot.Disk{Name: "vda", Path: at("image")}, Delta: at("delta")}
	for name, test := range map[string]struct {
		source, format, below string
		busy                  bool
	}{
		"no medium":          {},
		"delta":              {source: "delta", format: "qcow2"},
		"delta, by a link":   {source: "link", format: "qcow2"},
		"image":              {source: "image", format: "qcow2"},
		"restored":           {source: "own", format: "qcow2"},
		"restored, raw":      {source: "raw", format: "raw"},
		"a user's layer":     {source: "user", format: "qcow2", busy: true},
		"two":                {source: "user2", format: "qcow2", busy: true},
		"past the delta":     {source: "aside", format: "qcow2", busy: true},
		"by the definition":  {source: "raw", format: "raw", below: "delta", busy: true},
		"not there":          {source: "gone", format: "qcow2", busy: true},
		"not there, below":   {source: "loose", format: "qcow2", busy: true},
		"not what is said":   {source: "raw", format: "qcow2", busy: true},
		"raw, and not there": {source: "gone", format: "raw"},
	} {
		source := ""
		if test.source != "" {
			source = fmt.Sprintf("<source file='%s'/>", at(test.source))
		}
		if test.below != "" {
			source += fmt.Sprintf("<backingStore type='file'><source file='/x'/><backingStore type='file'><source file='%s'/></backingStore></backingStore>", at(test.below))
		}
		def, err := parseDisks(fmt.Sprintf("<domain><devices><disk><driver type='%s'/>%s<target dev='vda'/></disk></devices></domain>", test.format, source))
		if err != nil {
			t.Fatal(err)
		}
		var hinted *snapshot.Hinted
		err = buried("web", def, p)
		if errors.Is(err, snapshot.ErrBusy) != test.busy || errors.As(err, &hinted) != test.busy || err != nil && !test.busy {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(at("delta")); err != nil {
		t.Fatal(err)
	}
	if over, err := (listed{source: at("user"), format: "qcow2"}).over(at("delta")); !over || err != nil {
		t.Errorf("a layer whose delta is lost: %v, %v", over, err)
	}
}
