package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
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
	_, err := l.host.ApplyCheckpoint(l.ctx, "web", id, false)
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrBusy) || next != "" && (!errors.As(err, &hinted) || !strings.Contains(hinted.Next, next)) {
		l.t.Errorf("%s: %v", what, err)
	}
}

// userActs: what its user does with a domain while it is about to go back comes first.
func (l *lifeline) userActs() {
	l.t.Helper()
	id := l.create(snapshot.NewCheckpoint{Memory: true})
	l.writes()
	pid := l.pid()
	l.backingUp(func() { l.refusesApply("a backup of the user's", id, "virsh domjobinfo web") })
	if l.pid() != pid {
		l.t.Error("the domain was ended")
	}
	l.right()

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
	l.right()

	l.once("apply-ended", func() { l.virsh("start", "web") })
	l.refusesApply("started by its user", id, "")
	l.goesOn()
	l.right()
	l.merge()
	l.right()
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
