package libvirt

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/libvirttest"
)

// A domain that libvirt migrates to another daemon in mid-run takes its deltas along, and
// writes to them there. Nothing of them is touched here; once it is back all goes on.
func TestMigratedAway(t *testing.T) {
	t.Parallel()
	b := newBench(t, false, guesttest.Disk{Size: diskSize}, guesttest.Disk{Size: diskSize, Format: snapshot.FormatRaw})
	there := libvirttest.Start(t)
	r := b.begin(t)
	r.take()
	r.migrate(b.daemon, there)
	r.busy("migrate it back")
	err := r.host.seeTree(r.ctx, "web", func(c *checkpointing) error {
		s, err := c.look(r.ctx)
		if err != nil {
			return err
		}
		return c.clear(r.ctx, s)
	})
	if hinted := (*snapshot.Hinted)(nil); !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "migrate it back") {
		t.Errorf("its checkpoints would be worked on: %v", err)
	}
	r.finds(&r.plan, snapshot.FindingMoved, "migrate it back")
	r.migrate(there, b.daemon)
	r.scribble()
	r.ends()
}

// migrate moves the domain, as somebody does whose hosts share their storage.
func (r *run) migrate(from, to *libvirttest.Daemon) {
	r.t.Helper()
	shell(r.t, "virsh", "-q", "-c", from.Address().String(), "migrate", "web", to.Address().String(), "--persistent", "--unsafe",
		"--migrateuri", "unix://"+filepath.Join(to.Dir, "move"))
}
