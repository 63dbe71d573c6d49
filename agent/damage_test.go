package agent_test

import (
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/repo"
)

// A damaged manifest costs the run a warning; the point before it is the parent.
func TestDamagedManifestIsPassedOver(t *testing.T) {
	w := newWorld(t)
	first, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	for _, name := range w.objects.Names() {
		if strings.HasSuffix(name, strings.ToLower(first.Point.ID)) {
			w.objects.Damage(name, func(b []byte) []byte { b[len(b)-1]++; return b })
		}
	}
	next, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	wantOneWarning(t, next.Warnings, "points/")
	if next.Point.Stats.New != 0 {
		t.Errorf("%d bytes stored again", next.Point.Stats.New)
	}
	w.wantRestored(next.Point)
	w.tidy()
}

// A parent whose map is damaged costs a second reading and a warning; what was lost
// is stored again.
func TestDamagedParentIsStoredAgain(t *testing.T) {
	w := newWorld(t)
	first, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	for _, name := range w.objects.Names() {
		if !strings.HasPrefix(name, "packs/") {
			continue
		}
		head, err := w.objects.Read(t.Context(), name, 4, 1)
		must(t, err)
		if head[0] == 'M' { // a pack of map nodes
			must(t, w.objects.Delete(t.Context(), name))
		}
	}
	next, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	wantOneWarning(t, next.Warnings, repo.ErrCorrupt.Error())
	w.wantRestored(next.Point)
	w.wantRestored(first.Point) // its map was the same
	w.tidy()
}

func wantOneWarning(t *testing.T, warnings []string, text string) {
	t.Helper()
	if len(warnings) != 1 || !strings.Contains(warnings[0], text) || strings.Contains(warnings[0], "\n") {
		t.Errorf("warnings %q, want one line with %q", warnings, text)
	}
}
