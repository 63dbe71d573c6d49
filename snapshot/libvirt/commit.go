package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// Commit has libvirt commit the top layer, and moves the domain back.
func (d *domain) Commit(ctx context.Context, m qmp.Monitor, p snapshot.DiskPlan, c qemu.Committing) error {
	found, err := d.running(ctx)
	if err != nil {
		return err
	}
	xml, err := d.xml(ctx, found, 0)
	if err != nil {
		return err
	}
	if xml.source(p.Name) == p.Path && !xml.mirrored(p.Name) {
		return fmt.Errorf("commit: libvirt has %s for the disk %s: %w", p.Path, p.Name, qemu.ErrUnaware)
	}
	return d.link.order(ctx, func(conn *rpc.Conn) error {
		job := &commit{Committing: c, conn: conn, domain: found, disk: p.Name}
		return job.run(ctx, m)
	})
}

// commit is one active commit of a disk, new or under way.
type commit struct {
	qemu.Committing
	conn   *rpc.Conn
	domain rpc.Domain
	disk   string
	reason string // why QEMU's job failed, as far as it was heard
	ended  bool   // by somebody else, as far as that was heard
}

func (j *commit) run(ctx context.Context, m qmp.Monitor) error {
	said := m.Subscribe("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED")
	defer said.Close()
	if err := j.start(ctx); err != nil {
		return err
	}
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		over, err := j.step(ctx)
		if over || err != nil {
			return err
		}
		select {
		case e := <-said.Events():
			j.hear(e)
		case <-again.C:
		case <-j.conn.Done():
			return rpc.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// start begins the job, unless one is there.
func (j *commit) start(ctx context.Context) error {
	job, there, err := j.conn.BlockJobOf(ctx, j.domain, j.disk)
	if err != nil {
		return err
	}
	if !there {
		const flags = rpc.CommitActive | rpc.CommitShallow
		return j.conn.BlockCommit(ctx, j.domain, j.disk, "", "", 0, flags)
	}
	if job.Type != rpc.BlockJobActiveCommit {
		return snapshot.WithHint(fmt.Errorf("libvirt has another job on the disk %s: %w", j.disk, snapshot.ErrBusy),
			"wait for its end (virsh blockjob), or end it")
	}
	return nil
}

// step moves the domain once the job is ready. over: it has been moved.
func (j *commit) step(ctx context.Context) (over bool, err error) {
	text, err := j.conn.XML(ctx, j.domain, 0)
	if err != nil {
		return false, err
	}
	def, err := parseDisks(text)
	if err != nil {
		return false, err
	}
	switch disk, _ := def.disk(j.disk); {
	case !disk.mirror:
		return false, j.failed()
	case !disk.ready:
		return false, j.tell(ctx)
	}
	if err := j.Pivot(); err != nil {
		return false, err
	}
	err = j.conn.BlockJobAbort(ctx, j.domain, j.disk, rpc.AbortPivot)
	if rpc.HasCode(err, rpc.CodeBlockCopyActive) { // not quite: the next look tells
		return false, nil
	}
	return err == nil, err
}

// tell says how far the job is.
func (j *commit) tell(ctx context.Context) error {
	job, there, err := j.conn.BlockJobOf(ctx, j.domain, j.disk)
	if err != nil || !there { // the next look says what has become of it
		return notRefused(err)
	}
	return j.Progress(int64(min(job.Cur, math.MaxInt64)), int64(min(job.End, math.MaxInt64)))
}

// notRefused leaves out that libvirt refused a question.
func notRefused(err error) error {
	if _, refused := errors.AsType[*rpc.Error](err); refused {
		return nil
	}
	return err
}

// hear notes what QEMU says of the end of a commit.
func (j *commit) hear(e qmp.Event) {
	var data struct {
		Type  string `json:"type"`
		Error string `json:"error"`
	}
	if json.Unmarshal(e.Data, &data) != nil || data.Type != "commit" {
		return
	}
	switch e.Name {
	case "BLOCK_JOB_COMPLETED":
		j.reason = data.Error
	case "BLOCK_JOB_CANCELLED":
		j.ended = true
	}
}

// failed is the error of a job that is there no more.
func (j *commit) failed() error {
	if j.reason == "" {
		return fmt.Errorf("libvirt's job on the disk %s has ended: %w", j.disk, snapshot.ErrBusy)
	}
	err := errors.New(j.reason)
	if strings.Contains(j.reason, "No space left") || strings.Contains(j.reason, "Disk quota exceeded") {
		err = fmt.Errorf("%w: %w", snapshot.ErrNoSpace, err)
	}
	return fmt.Errorf("commit: %w", err)
}
