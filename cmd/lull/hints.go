package main

import (
	"context"
	"errors"
	"syscall"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo"
)

// hintLockDays is for locks that end before the rules of keep do, or long after.
const hintLockDays = "leave days of object_lock out, or write auto, to follow the rules"

// hintRule is the next step for an error that brings none of its own.
type hintRule struct {
	is   error
	next string
}

// hintRules: the first that matches counts.
func hintRules() []hintRule {
	return []hintRule{
		{context.Canceled, "run it again"},
		{repo.ErrPassphrase, "give the passphrase that the repository was made with"},
		{repo.ErrRole, "use another key, see `lull key list`"},
		{repo.ErrReadOnly, "move it into a new repository with `lull copy`"},
		{repo.ErrLabel, "use 1 to 64 of a to z, 0 to 9, dot, underscore and dash"},
		{repo.ErrNoKey, "see `lull key list`"},
		{repo.ErrSigners, "name one of them instead of the label"},
		{repo.ErrKeyExists, "choose another label, see `lull key list`"},
		{repo.ErrLastOwner, "make another owner's key first, with `lull key add`"},
		{repo.ErrPaper, "type the numbered lines as they are printed"},
		{repo.ErrHeld, "end the hold with `lull release` first"},
		{repo.ErrBusy, "run it again later"},
		{repo.ErrFenced, "run it again"},
		{repo.ErrNoRepository, "make one with `lull init`"},
		{repo.ErrExists, "use it as it is, or choose another place"},
		{repo.ErrVersion, "use the newest lull"},
		{repo.ErrNotFound, "see `lull points`"},
		{repo.ErrCorrupt, "see `lull check --all` for what else is damaged"},
		{blob.ErrUnreachable, "check the endpoint and the network"},
		{blob.ErrDenied, "check credentials and permissions"},
		{blob.ErrNoBucket, "make the bucket or the folder first"},
		{blob.ErrNoSpace, "make room for the repository and run again"},
		{journal.ErrLocked, "wait until the other run is done, see `lull status`"},
		{quiesce.ErrStillFrozen, "thaw it by hand: virsh domfsthaw, or guest-fsfreeze-thaw on its agent"},
		{quiesce.ErrBelowFloor, "cure that, or lower the floor of its group"},
		{snapshot.ErrNotFound, "see `lull vms`"},
		{snapshot.ErrNoCheckpoint, "see `lull checkpoint list`"},
		{snapshot.ErrDiverged, "do not start the VM again before its delta was looked at"},
		{snapshot.ErrUncertain, "do not start the VM again before its delta was looked at"},
		{snapshot.ErrBusy, "stop what uses it and run again"},
		{snapshot.ErrGone, "start the VM again if that was not meant, then run again"},
		{snapshot.ErrUnreachable, "is the VM running, and is the path of its socket right?"},
		{snapshot.ErrCorrupt, "see `qemu-img check` for more"},
		{snapshot.ErrNoSpace, "make room and run again"},
		{syscall.ENOSPC, "make room and run again"},
	}
}

// hintOf is the next step that the outermost hinted error of a chain gives, or
// the usual one for its kind.
func hintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		return h.Hint()
	}
	for _, r := range hintRules() {
		if errors.Is(err, r.is) {
			return r.next
		}
	}
	return ""
}
