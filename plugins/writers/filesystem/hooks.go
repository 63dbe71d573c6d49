package filesystem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// hookLog is where the guest agent's dispatcher of hooks (/etc/qemu/fsfreeze-hook of Debian,
// Ubuntu and Fedora) says how each ended. It ends well itself whatever they do, so that the
// freeze does not fail; one that does fail is an error of the freeze.
const hookLog = "/var/log/qga-fsfreeze-hook.log"

const (
	maxHookLog = 1 << 20 // bytes of it that are read; where there are more nothing is known
	maxHooks   = 5       // that are named
)

const hintHooks = "see " + hookLog + " in the guest"

// hooks finds out which hooks of the guest failed, from what is new in their log. The
// grant to read files is not needed: without it nothing is known.
type hooks struct {
	before []byte // the log at the begin of the attempt
	known  bool   // it was read, or there was none
}

// mark remembers the log, which most guests do not have.
func (h *hooks) mark(ctx context.Context, w *Writer) {
	before, err := w.guest.ReadFile(ctx, hookLog, maxHookLog)
	h.before, h.known = before, err == nil || errors.Is(err, snapshot.ErrNoFile)
}

// failed is an advisory failure where hooks failed since mark. Where it is not known what the
// log had before, what it has says nothing of this attempt.
func (h *hooks) failed(ctx context.Context, w *Writer) error {
	if !h.known {
		return nil
	}
	now, err := w.guest.ReadFile(ctx, hookLog, maxHookLog)
	if err != nil {
		return nil
	}
	names := failedHooks(added(h.before, now))
	if len(names) == 0 {
		return nil
	}
	return &quiesce.Failure{
		Writer: Name, Advisory: true, Next: hintHooks,
		Err: errors.New("hooks of the guest failed around the freeze: " + strings.Join(names, ", ")),
	}
}

// added is what a log has got; all of it where it was begun anew.
func added(before, now []byte) []byte {
	more, _ := bytes.CutPrefix(now, before)
	return more
}

// failedHooks reads lines such as "Sun Nov 22 ...: /etc/qemu/.../mysql finished with status=1".
// A guest may write anything there.
func failedHooks(log []byte) []string {
	var names []string
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^.{0,100}: (\S{1,200}) finished with status=(\d{1,3})$`).FindAllSubmatch(log, -1) {
		if string(m[2]) == "0" {
			continue
		}
		name := fmt.Sprintf("%s ended with %s", strings.ToValidUTF8(string(m[1]), "?"), m[2])
		if !seen[name] && len(names) < maxHooks {
			names = append(names, name)
		}
		seen[name] = true
	}
	return names
}
