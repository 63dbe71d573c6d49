package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// askAgain is how often a wait for an event asks the monitor all the same.
const askAgain = time.Second

// await calls look until it says that it is done: at once, after each of the
// events, and every second.
func (m *monitor) await(ctx context.Context, look func() (bool, error), events ...string) error {
	return m.awaitEvent(ctx, func(*qmp.Event) (bool, error) { return look() }, events...)
}

// awaitEvent is await for who needs to know what happened; look gets nil where that
// is nothing.
func (m *monitor) awaitEvent(ctx context.Context, look func(*qmp.Event) (bool, error), events ...string) error {
	sub := m.Subscribe(events...)
	defer sub.Close()
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	var happened *qmp.Event
	for {
		if done, err := look(happened); done || err != nil {
			return err
		}
		happened = nil
		select {
		case e := <-sub.Events():
			happened = &e
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.Done():
			return qmp.ErrClosed
		}
	}
}

// findJob is the job of that id, or nil.
func (m *monitor) findJob(ctx context.Context, id string) (*job, error) {
	jobs, err := m.jobs(ctx)
	if err != nil {
		return nil, err
	}
	for i := range jobs {
		if jobs[i].ID == id {
			return &jobs[i], nil
		}
	}
	return nil, nil
}

// awaitJob waits until a job has one of the states; "concluded" and that it is
// gone always count.
func (m *monitor) awaitJob(ctx context.Context, id string, states ...string) (*job, error) {
	return m.watchJob(ctx, id, func(*job) error { return nil }, states...)
}

// watchJob is awaitJob that shows the job each time that it is looked at.
func (m *monitor) watchJob(ctx context.Context, id string, show func(*job) error, states ...string) (*job, error) {
	var found *job
	err := m.await(ctx, func() (bool, error) {
		j, err := m.findJob(ctx, id)
		if err != nil {
			return false, err
		}
		found = j
		if err := show(j); err != nil {
			return false, err
		}
		return j == nil || j.Status == "concluded" || slices.Contains(states, j.Status), nil
	}, "JOB_STATUS_CHANGE", "BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED")
	return found, err
}

// finish waits for the end of a job, if there is one, removes it and returns
// what it failed with.
func (m *monitor) finish(ctx context.Context, id string) error {
	return m.finishTelling(ctx, id, func(*job) error { return nil })
}

// finishTelling is finish that shows the job each time that it is looked at.
func (m *monitor) finishTelling(ctx context.Context, id string, show func(*job) error) error {
	j, err := m.watchJob(ctx, id, show)
	if err != nil || j == nil {
		return err
	}
	if err := m.Execute(ctx, "job-dismiss", args{"id": id}, nil); err != nil {
		return err
	}
	if j.Error != "" {
		return jobError(j)
	}
	return nil
}

// errJob: a background job of QEMU failed.
var errJob = errors.New("QEMU's job failed")

func jobError(j *job) error {
	err := fmt.Errorf("%w: %s", errJob, j.Error)
	if isFull(j.Error) {
		err = fmt.Errorf("%w: %w", snapshot.ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w", j.Type, err)
}
