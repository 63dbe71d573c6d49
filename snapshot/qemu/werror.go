package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// werror is what QEMU does when a write of the guest fails, where that is not to stop
// the VM; else empty. A delta that cannot grow is an error of the disk to the guest
// then ("report"), or a write that is lost in silence ("ignore").
func (m *monitor) werror(ctx context.Context, b block) (string, error) {
	if b.QDev == "" || len(m.vm.Nodes) > 0 {
		return "", nil
	}
	action := ""
	if err := m.ask(ctx, "qom-get", args{"path": qomPath(b.QDev), "property": "werror"}, &action); err != nil {
		return "", err
	}
	if action == "" || action == "auto" {
		action = m.driveWerror(b.Device)
	}
	if action == "report" || action == "ignore" {
		return action, nil
	}
	return "", nil
}

// driveWerror is what -drive says where the device leaves it open; QEMU shows that
// nowhere else.
func (m *monitor) driveWerror(drive string) string {
	g := newGraph(parseOptions(m.proc.commandLine()))
	if i, ok := g.drives[drive]; ok && g.options[i].name == "drive" {
		return parseKeyval(g.options[i].value, false).get("werror")
	}
	return ""
}

// qomPath is the path of a device that query-block calls by its id or its path.
func qomPath(qdev string) string {
	if strings.HasPrefix(qdev, "/") {
		return qdev
	}
	return "/machine/peripheral/" + qdev
}

// risky says what a werror means for a backup.
func risky(disk, action string) string {
	return fmt.Sprintf("disk %s has werror=%s: were there no room for its delta during a backup, its guest would lose writes; "+
		"leave werror to QEMU's default, or make it stop", disk, action)
}

// guestHurt is what must end the run when the guest was told of a failed write to a
// delta, or was not even told: the longer the delta stays, the more it loses. deltas are
// the disks by the nodes of their deltas.
func guestHurt(e *qmp.Event, deltas map[string]string) error {
	if e == nil || e.Name != "BLOCK_IO_ERROR" {
		return nil
	}
	var data struct {
		Node      string `json:"node-name"`
		Operation string `json:"operation"`
		Action    string `json:"action"`
		NoSpace   bool   `json:"nospace"`
		Reason    string `json:"reason"`
	}
	if json.Unmarshal(e.Data, &data) != nil || data.Operation != "write" || data.Action == "stop" {
		return nil
	}
	disk, ours := deltas[data.Node]
	if !ours {
		return nil
	}
	err := fmt.Errorf("a write of the guest to the delta of disk %s was lost (werror=%s): %s", disk, data.Action, data.Reason)
	// Where QEMU does not stop for want of room it does not set nospace either.
	if data.NoSpace || isFull(data.Reason) {
		err = fmt.Errorf("%w: %w", err, snapshot.ErrNoSpace)
	}
	return snapshot.WithHint(err, "check the guest's file systems, make room, and leave werror to QEMU's default")
}

// isFull reads the reason that QEMU gives for an error.
func isFull(reason string) bool {
	return strings.Contains(reason, "No space left") || strings.Contains(reason, "Disk quota exceeded")
}
