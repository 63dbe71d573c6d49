package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// commit merges a delta that is on the device into the image below it, from
// whatever point an earlier attempt has reached. It returns how the disk lies
// then: with the image on the device.
func (m *monitor) commit(ctx context.Context, d snapshot.DiskPlan, v view, w *commitWatch) (view, error) {
	if m.vm.Manager != nil {
		return m.commitManaged(ctx, d, v, w)
	}
	for range mergeTries {
		err := m.commitOnce(ctx, d, v, w)
		if errors.Is(err, errJob) { // the pivot did not happen
			if err := fileOf(d).unmark(); err != nil {
				return v, err
			}
		}
		if err != nil && v.committing {
			err = nil // how an earlier attempt ended tells nothing about the next
		}
		var lookErr error
		if v, lookErr = m.look(ctx, d); lookErr != nil {
			return v, lookErr
		}
		if v.top == "" && !v.committing {
			return v, nil
		}
		if v.top != "" { // nor did it if the job was cancelled
			if err := fileOf(d).unmark(); err != nil {
				return v, err
			}
		}
		if err != nil {
			return v, fmt.Errorf("commit delta %s: %w", d.Delta, err)
		}
	}
	return v, fmt.Errorf("commit delta %s: its job ends without moving the disk back: %w", d.Delta, snapshot.ErrBusy)
}

// commitOnce takes one commit job to its end.
func (m *monitor) commitOnce(ctx context.Context, d snapshot.DiskPlan, v view, w *commitWatch) error {
	if !v.committing {
		if err := m.startCommit(ctx, d, v); err != nil {
			return err
		}
	}
	id := commitJob(d.DeltaNode)
	show := func(j *job) error { return w.look(ctx, m, j) }
	j, err := m.watchJob(ctx, id, show, "ready")
	if err != nil {
		return err
	}
	if j != nil && j.Status == "ready" {
		if err := m.pivot(ctx, d, id); err != nil {
			return err
		}
	}
	return m.finishTelling(ctx, id, show)
}

func (m *monitor) startCommit(ctx context.Context, d snapshot.DiskPlan, v view) error {
	if v.below == "" {
		return fmt.Errorf("no node of %s under the delta: %w", d.Path, snapshot.ErrUnsupported)
	}
	if err := m.unread(ctx, v.below); err != nil {
		return err
	}
	if err := note(d, stampCommit); err != nil && !errors.Is(err, snapshot.ErrNoSpace) {
		return err // without room the commit, which makes some, matters more
	}
	return commitRefused(m.Execute(ctx, "block-commit", args{"job-id": commitJob(d.DeltaNode), "device": v.top,
		"base-node": v.below, "auto-dismiss": false}, nil))
}

// commitRefused says what to do about somebody else's job, which keeps the delta in use, or
// has put a filter on it.
func commitRefused(err error) error {
	var refused *qmp.Error
	if errors.As(err, &refused) && (strings.Contains(refused.Desc, "in use by block job") || strings.Contains(refused.Desc, "Need a root block node")) {
		return snapshot.WithHint(fmt.Errorf("%w: %w", snapshot.ErrBusy, err),
			"wait for the end of the other tool's block job, or end it (query-block-jobs, block-job-cancel): lull then merges by itself")
	}
	return err
}

// unread fails while somebody is served the image: a commit would change it under the
// reader, and QEMU lets that happen. Our own exports are closed by now.
func (m *monitor) unread(ctx context.Context, node string) error {
	exports, err := m.exports(ctx)
	if err != nil {
		return err
	}
	for _, e := range exports {
		if e.Node == node {
			return snapshot.WithHint(fmt.Errorf("QEMU serves %s to somebody (export %q), whom a merge would give a changing disk: %w", node, e.ID, snapshot.ErrBusy),
				fmt.Sprintf(`end the other tool's export, or send {"execute": "block-export-del", "arguments": {"id": %q}} to the monitor`, e.ID))
		}
	}
	return nil
}

// pivot makes the image take all writes again. The file is renamed first: after
// a crash its name tells that the image may be the newer one. The job is ready,
// so the two are the same but for the guest's latest writes, which job-complete
// waits for. With a manager the stamp says it, not the name.
func (m *monitor) pivot(ctx context.Context, d snapshot.DiskPlan, id string) error {
	mark := fileOf(d).mark
	if m.vm.Manager != nil {
		mark = func() error { return note(d, stampPivot) }
	}
	if err := mark(); err != nil {
		return err
	}
	err := m.Execute(ctx, "job-complete", args{"id": id}, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) { // it has ended meanwhile, or was completed before
		j, lookErr := m.findJob(ctx, id)
		if lookErr == nil && j != nil && j.Status == "ready" {
			return err
		}
		return lookErr
	}
	return err
}
