package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/space"
)

// once has something done when an operation is at a step.
func (l *lifeline) once(at string, do func()) {
	l.at = func(step string) {
		if step == at {
			l.at = nil
			do()
		}
	}
}

// refusesApply: nothing was done to the domain, which goes on being what it was.
func (l *lifeline) refusesApply(what, id, next string) {
	l.t.Helper()
	err := l.TryApply(l.ctx, id, false)
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrBusy) || next != "" && (!errors.As(err, &hinted) || !strings.Contains(hinted.Next, next)) {
		l.t.Errorf("%s: %v", what, err)
	}
}

// userActs: what its user does with a domain while it is about to go back comes first.
func (l *lifeline) userActs() {
	l.t.Helper()
	id := l.Create(snapshot.NewCheckpoint{Memory: true})
	l.Writes()
	pid := l.pid()
	l.backingUp(func() { l.refusesApply("a backup of the user's", id, "virsh domjobinfo web") })
	if l.pid() != pid {
		l.t.Error("the domain was ended")
	}
	l.Right()

	text, err := l.conn.XML(l.ctx, l.dom.ID, rpc.XMLInactive|rpc.XMLSecure)
	if err != nil {
		l.t.Fatal(err)
	}
	l.virsh("undefine", "web") // it would be gone when it ends
	if _, err := l.host.ApplyCheckpoint(l.ctx, "web", id, false); !errors.Is(err, snapshot.ErrUnsupported) || l.pid() != pid {
		l.t.Errorf("a domain without a definition: %v", err)
	}
	l.edit(func(string) string { return text })
	l.Right()

	file := filepath.Join(l.dom.Dir, "mine.save")
	l.once("apply-switching", func() { l.virsh("save", "web", file) })
	l.refusesApply("saved by its user", id, "virsh restore FILE")
	if l.pid() != 0 {
		l.t.Error("the domain was started, which goes on with its memory")
	}
	l.virsh("restore", file)
	if err := os.Remove(file); err != nil {
		l.t.Fatal(err)
	}
	l.Right()

	l.once("apply-ended", func() { l.virsh("start", "web") })
	l.refusesApply("started by its user", id, "")
	l.goesOn()
	l.State = nil
	l.Right()
	l.Merge()
	l.Right()
}

// backingUp does something while libvirt makes a backup for somebody else.
func (l *lifeline) backingUp(do func()) {
	l.t.Helper()
	text := filepath.Join(l.dom.Dir, "backup")
	pull := "<domainbackup mode='pull'><server transport='unix' socket='" + filepath.Join(l.daemon.Dir, "nbd") + "'/></domainbackup>"
	if err := os.WriteFile(text, []byte(pull), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.virsh("backup-begin", "web", text)
	do()
	l.virsh("domjobabort", "web") // fails where it is there no more
	eventually(l.t, "the end of the backup", func() error {
		kind, what, err := l.conn.Job(l.ctx, l.dom.ID)
		if err == nil && kind != rpc.JobNone {
			err = fmt.Errorf("job %d, %d", kind, what)
		}
		return err
	})
	if err := os.Remove(text); err != nil {
		l.t.Fatal(err)
	}
}

// snapshotMeanwhile: a snapshot that its user makes of the domain is not ended with a checkpoint that
// has no memory.
func (l *lifeline) snapshotMeanwhile() {
	l.t.Helper()
	if l.Dies(func(step string) bool { return step == "create-made" }, func(ctx context.Context) error {
		_, err := l.host.CreateCheckpoint(ctx, "web", snapshot.NewCheckpoint{})
		return err
	}) == "" {
		l.t.Fatal("no such step")
	}
	mine := filepath.Join(l.dom.Dir, "mine.memory")
	made := make(chan error, 1)
	go func() {
		_, err := l.conn.SnapshotCreate(l.ctx, l.dom.ID, "<domainsnapshot><memory snapshot='external' file='"+mine+"'/><disks>"+
			"<disk name='vda' snapshot='no'/><disk name='sda' snapshot='no'/></disks></domainsnapshot>", rpc.SnapshotNoMetadata)
		made <- err
	}()
	eventually(l.t, "the memory of the user's", func() error {
		_, err := os.Stat(mine)
		return err
	})
	l.Recovers("create-made, and a snapshot of the user's")
	if err := errors.Join(<-made, os.Remove(mine)); err != nil {
		l.t.Errorf("the snapshot: %v", err)
	}
	l.Right()
}

// copied: a merge does not end what libvirt copies of a disk for its user.
func (l *lifeline) copied() {
	l.t.Helper()
	l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	mine := filepath.Join(l.dom.Dir, "mine.qcow2")
	l.once("fold-begun", func() { l.virsh("blockcopy", "web", "sda", mine, "--transient-job") })
	l.refusesMerge("virsh blockjob")
	if job, there, err := l.conn.BlockJobOf(l.ctx, l.dom.ID, "sda"); err != nil || !there || job.Type != rpc.BlockJobCopy {
		l.t.Errorf("the copy was ended: %+v, %v, %v", job, there, err)
	}
	l.virsh("blockjob", "web", "sda", "--abort")
	if err := os.Remove(mine); err != nil {
		l.t.Fatal(err)
	}
	l.Merge()
	l.Right()
}

// held: a merge of an image that the domain does not write to ends where there is no room left, or
// somebody ends it; the next one goes on.
func (l *lifeline) held() {
	l.t.Helper()
	first := l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	second := l.Create(snapshot.NewCheckpoint{Memory: true})
	l.Writes()
	usual := l.host.opt.Space
	tight := func() { l.host.opt.Space = space.LeaveFree(1 << 60) }
	tight()
	if err := l.host.DeleteCheckpoints(l.ctx, "web", first, false); !errors.Is(err, snapshot.ErrNoSpace) || l.Tree().List[0].Deleted {
		l.t.Errorf("a merge without room: %v", err)
	}
	l.host.opt.Space = usual
	l.ends(first, snapshot.ErrNoSpace, tight, func() error { return l.host.DeleteCheckpoints(l.ctx, "web", first, false) })
	l.host.opt.Space = usual
	abort := func() {
		if err := l.conn.BlockJobAbort(l.ctx, l.dom.ID, "vda", 0); err != nil {
			l.t.Error(err)
		}
	}
	l.ends(first, snapshot.ErrBusy, abort, func() error {
		return l.host.onTree(l.ctx, "web", func(c *checkpointing) error { return c.reduce(l.ctx) })
	})
	l.Recovers("the end of a commit")
	l.Forget()
	l.Right()
	l.Apply(second, false) // the merge has not spoilt it
	l.Right()
	l.spoilt(second)
	l.Merge()
	l.Right()
}

// spoilt: somebody has written to the image of a checkpoint. Its memory is not loaded upon that.
func (l *lifeline) spoilt(id string) {
	l.t.Helper()
	frozen, pid := l.dom.Disks[1], l.pid() // what the checkpoint below had was merged into
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(frozen, later, later); err != nil {
		l.t.Fatal(err)
	}
	err := l.TryApply(l.ctx, id, false)
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), frozen) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "--cold") || l.pid() != pid {
		l.t.Errorf("a memory upon an image that was written to: %v", err)
	}
	l.Apply(id, true)
	l.Right()
}

// ends: libvirt commits the images of a checkpoint that is deleted slowly, until that is ended.
func (l *lifeline) ends(id string, want error, end func(), op func() error) {
	l.t.Helper()
	l.at = func(step string) {
		switch step {
		case "fold-begun":
			if err := l.slow(id); err != nil {
				l.t.Error(err)
			}
		case "fold-committing":
			l.at = nil
			end()
		}
	}
	if err := op(); !errors.Is(err, want) {
		l.t.Errorf("the commit was ended, want %v: %v", want, err)
	}
	_, there, err := l.conn.BlockJobOf(l.ctx, l.dom.ID, "vda")
	if tree := l.Tree(); err != nil || there || tree.Pending != "" || !tree.List[0].Deleted {
		l.t.Errorf("a job %v, pending %q, %v", there, tree.Pending, err)
	}
}

// slow begins the commit of the first disk as one that takes for ever.
func (l *lifeline) slow(id string) error {
	return l.host.seeTree(l.ctx, "web", func(c *checkpointing) error {
		upper := c.tree.Find(c.tree.Children(id)[0]).Images[0]
		return l.conn.BlockCommit(l.ctx, l.dom.ID, "vda", c.tree.Find(id).Images[0], upper, 1, rpc.CommitBandwidthBytes)
	})
}

// differing: the host loses its power as the domain moves to the lower image, and nobody can tell
// from which of the two it has gone on. Its user can.
func (l *lifeline) differing() {
	l.t.Helper()
	l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	l.DiesIn("fold-pivoting", l.TryMerge)
	l.Off()
	lower := l.dom.Disks[0]
	off := int(l.Last()) // where the upper one has something of its own
	shell(l.t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P 201 %d 64k", off), lower)
	for i := range 64 << 10 {
		l.Want["vda"][off+i] = 201
	}
	before := l.files(l.t)
	_, err := l.host.RecoverCheckpoints(l.ctx, "web")
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrUncertain) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "virsh edit web") || l.Tree().Pending == "" {
		l.t.Errorf("images that differ: %v", err)
	}
	if after := l.files(l.t); len(after) != len(before) {
		l.t.Errorf("files went or came: %v, %v", before, after)
	}
	upper := ""
	l.edit(func(xml string) string {
		def, err := parseDisks(xml)
		if err != nil {
			l.t.Fatal(err)
		}
		upper = def.source("vda")
		return strings.Replace(xml, "'"+upper+"'", "'"+lower+"'", 1)
	})
	l.Boot()
	l.Recovers("fold-pivoting, and a definition by the user")
	l.Forget()
	l.Right()
}

// unmounted: an operation is not brought to an end where the images cannot be seen, and no file of
// it is forgotten.
func (l *lifeline) unmounted(id string) {
	l.t.Helper()
	l.diesApplying(id, "apply-defined")
	l.Went(id)
	gone := l.dom.Disks[1] + ".gone"
	if err := os.Rename(l.dom.Disks[1], gone); err != nil {
		l.t.Fatal(err)
	}
	_, err := l.host.RecoverCheckpoints(l.ctx, "web")
	if !errors.Is(err, snapshot.ErrBusy) || !errors.Is(err, os.ErrNotExist) || l.Tree().Pending == "" || l.pid() != 0 {
		l.t.Errorf("without an image: %v", err)
	}
	if err := os.Rename(gone, l.dom.Disks[1]); err != nil {
		l.t.Fatal(err)
	}
	l.Recovers("apply-defined, and a file system that was not mounted")
	l.Right()
}
