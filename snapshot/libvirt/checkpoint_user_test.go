package libvirt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// layered: a layer of the user's upon a checkpoint is not touched, nor what is below it.
func (l *lifeline) layered() {
	l.t.Helper()
	l.Create(snapshot.NewCheckpoint{})
	upper := filepath.Join(l.dom.Dir, "mine.qcow2")
	l.virsh("snapshot-create-as", "web", "mine", "--disk-only", "--no-metadata", "--diskspec", "vda,file="+upper, "--diskspec", "sda,snapshot=no")
	l.Writes()
	err := l.TryMerge(l.ctx)
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "virsh blockcommit web vda") {
		l.t.Errorf("a layer of the user's: %v", err)
	}
	l.virsh("blockcommit", "web", "vda", "--active", "--shallow", "--pivot")
	if err := os.Remove(upper); err != nil {
		l.t.Fatal(err)
	}
	l.Right()
	l.Merge()
	l.Right()
}

// based: what somebody has made upon the image of a checkpoint keeps that, whoever starts from it.
func (l *lifeline) based() {
	l.t.Helper()
	l.Writes()
	first := l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	leaf := l.Create(snapshot.NewCheckpoint{})
	frozen := l.dom.Disks[0] + ".lull-" + first + ".layer" // what the domain wrote to until then
	l.Apply(first, true)
	mine := filepath.Join(l.dom.Dir, "mine.qcow2")
	shell(l.t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", frozen, mine)
	kept := func(what string, want error) {
		l.t.Helper()
		if err := l.host.DeleteCheckpoints(l.ctx, "web", leaf, false); !errors.Is(err, want) {
			l.t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(frozen); err != nil || len(l.Tree().List) != 2 || l.Tree().List[1].Deleted {
			l.t.Fatalf("%s: %v, %+v", what, err, l.Tree().List)
		}
	}
	text, err := l.conn.XML(l.ctx, l.dom.ID, rpc.XMLInactive|rpc.XMLSecure)
	if err != nil {
		l.t.Fatal(err)
	}
	def, err := parseDisks(text)
	if err != nil {
		l.t.Fatal(err)
	}
	upon := strings.Replace(text, def.source("vda"), mine, 1)
	other := strings.NewReplacer("<name>web<", "<name>other<", l.dom.ID.UUID.String(), "6e031fff-2c34-465b-ae84-4bf1cb261e1c").Replace(upon)
	clone, err := l.conn.Define(l.ctx, other)
	if err != nil {
		l.t.Fatal(err)
	}
	kept("a layer of another domain's", snapshot.ErrBusy)
	if err := l.conn.Undefine(l.ctx, clone, 0); err != nil {
		l.t.Fatal(err)
	}
	l.Off()
	l.edit(func(string) string { return upon })
	kept("a layer that the domain will start from", snapshot.ErrDiverged)
	l.edit(func(string) string { return text })
	if err := os.Remove(mine); err != nil {
		l.t.Fatal(err)
	}
	l.Boot()
	l.Delete(leaf, false)
	l.Right()
	l.Merge()
}

// saved: the images of a domain that was saved with its memory stay, as that goes on with them.
func (l *lifeline) saved() {
	l.t.Helper()
	l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	file := filepath.Join(l.dom.Dir, "mine.save")
	l.virsh("save", "web", file)
	l.refusesMerge("virsh restore")
	l.virsh("restore", file)
	if err := os.Remove(file); err != nil {
		l.t.Fatal(err)
	}
	l.Right()
	l.Merge()
	l.Right()
}

// refusesMerge: the domain is not lull's to change now. The hint says what to do.
func (l *lifeline) refusesMerge(next string) {
	l.t.Helper()
	err := l.TryMerge(l.ctx)
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, next) {
		l.t.Errorf("merge: %v", err)
	}
}
