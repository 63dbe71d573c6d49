package plugins

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce"
)

var _ quiesce.Writer = (*Plugin)(nil)

const (
	// deafLimit is how many Aborts in a row may stay without an answer. The
	// first one may have had little time, inside the window.
	deafLimit = 2
	// gonePause is how long a broken connection waits for the news that the
	// process has ended.
	gonePause = time.Second
)

// Identify asks the plugin who it is.
func (p *Plugin) Identify(ctx context.Context) (quiesce.Identity, error) {
	r, err := p.writer.Identify(ctx, &proto.IdentifyRequest{})
	if err != nil {
		return quiesce.Identity{}, p.failure(ctx, err)
	}
	id := quiesce.Identity{
		Name: r.GetName(), Version: r.GetVersion(), Components: r.GetComponents(),
		Tier:   quiesce.Tier(r.GetTier() - proto.Tier_TIER_FRONT_END),
		Budget: time.Duration(min(max(r.GetBudgetMs(), 0), quiesce.MaxWindow.Milliseconds())) * time.Millisecond,
	}
	switch r.GetLevel() {
	case proto.Level_LEVEL_FILESYSTEM:
		id.Level = quiesce.LevelFilesystem
	case proto.Level_LEVEL_APPLICATION:
		id.Level = quiesce.LevelApplication
	}
	if err := id.Check(); err != nil {
		return quiesce.Identity{}, &quiesce.Failure{Writer: p.spec.Name, Err: err}
	}
	return id, nil
}

// Prepare comes before the window.
func (p *Plugin) Prepare(ctx context.Context, r quiesce.PrepareRequest) ([]quiesce.Component, error) {
	res, err := p.writer.Prepare(ctx, &proto.PrepareRequest{Request: p.request(ctx, r.Request), Disks: wireDisks(r.Disks)})
	return components(res.GetComponents()), p.failure(ctx, optional(err))
}

// Freeze opens the guest's freeze to the plugin as long as it is under way.
func (p *Plugin) Freeze(ctx context.Context, r quiesce.Request) error {
	if p.guest != nil {
		defer p.guest.gate.enter()()
	}
	_, err := p.writer.Freeze(ctx, &proto.FreezeRequest{Request: p.request(ctx, r)})
	return p.failure(ctx, err)
}

// Thaw lets the application go on.
func (p *Plugin) Thaw(ctx context.Context, r quiesce.Request) (quiesce.ThawResult, error) {
	res, err := p.writer.Thaw(ctx, &proto.ThawRequest{Request: p.request(ctx, r)})
	return quiesce.ThawResult{Held: res.GetHeld()}, p.failure(ctx, err)
}

// PostSnapshot gets the plugin's document.
func (p *Plugin) PostSnapshot(ctx context.Context, r quiesce.Request) ([]byte, error) {
	res, err := p.writer.PostSnapshot(ctx, &proto.PostSnapshotRequest{Request: p.request(ctx, r)})
	return res.GetDocument(), p.failure(ctx, optional(err))
}

// Complete says that the restore point is durable.
func (p *Plugin) Complete(ctx context.Context, r quiesce.CompleteRequest) error {
	_, err := p.writer.Complete(ctx, &proto.CompleteRequest{
		Request: p.request(ctx, r.Request), Point: wireText(r.Point), Level: wireLevel(r.Level), Outcomes: wireOutcomes(r.Outcomes),
	})
	return p.failure(ctx, optional(err))
}

// Abort undoes everything. A plugin that stays deaf to it is killed.
func (p *Plugin) Abort(ctx context.Context, r quiesce.Request) error {
	_, err := p.writer.Abort(ctx, &proto.AbortRequest{Request: p.request(ctx, r)})
	switch {
	case status.Code(err) != codes.DeadlineExceeded:
		p.deafAborts.Store(0) // a failure of the writer is an answer too
	case p.deafAborts.Add(1) >= deafLimit:
		p.process.kill(errors.New("killed: it did not answer Abort"))
		<-p.process.ended
		return p.gone()
	}
	return p.failure(ctx, err)
}

// PreRestore comes before a restore.
func (p *Plugin) PreRestore(ctx context.Context, r quiesce.RestoreRequest) error {
	_, err := p.writer.PreRestore(ctx, &proto.PreRestoreRequest{Request: p.restoreRequest(ctx, r)})
	return p.failure(ctx, optional(err))
}

// PostRestore comes after a restore.
func (p *Plugin) PostRestore(ctx context.Context, r quiesce.RestoreRequest) error {
	_, err := p.writer.PostRestore(ctx, &proto.PostRestoreRequest{Request: p.restoreRequest(ctx, r)})
	return p.failure(ctx, optional(err))
}

// optional forgives a plugin that does not have a call that it need not have.
func optional(err error) error {
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	return err
}

// failure types an error of the wire.
func (p *Plugin) failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	st, _ := status.FromError(err)
	for _, d := range st.Details() {
		if f, ok := d.(*proto.Failure); ok {
			return &quiesce.Failure{
				Class: class(f.GetClass()), Writer: p.spec.Name, Component: wireText(f.GetComponent()),
				Err: errors.New(wireText(f.GetMessage())), Next: wireText(f.GetHint()), Advisory: f.GetAdvisory(),
			}
		}
	}
	switch {
	case p.ended(ctx, st.Code()):
		return p.gone()
	case st.Code() == codes.DeadlineExceeded:
		p.deaf.Store(true)
		return &quiesce.Failure{Class: quiesce.Timeout, Writer: p.spec.Name, Err: errors.New("no answer in time")}
	case ctx.Err() != nil:
		return &quiesce.Failure{Writer: p.spec.Name, Err: context.Cause(ctx)}
	}
	return &quiesce.Failure{Writer: p.spec.Name, Err: fmt.Errorf("%s: %s", st.Code(), wireText(st.Message()))}
}

// ended says whether the process is gone. A connection breaks a moment before
// that can be seen.
func (p *Plugin) ended(ctx context.Context, code codes.Code) bool {
	if code == codes.Unavailable {
		timer := time.NewTimer(gonePause)
		defer timer.Stop()
		select {
		case <-p.process.ended:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return p.process.died() != nil
}

func (p *Plugin) gone() error {
	return &quiesce.Failure{Writer: p.spec.Name, Err: fmt.Errorf("%w: %w", quiesce.ErrWriterGone, p.process.died())}
}

func class(c proto.FailureClass) quiesce.Class {
	switch c {
	case proto.FailureClass_FAILURE_CLASS_RETRYABLE:
		return quiesce.Retryable
	case proto.FailureClass_FAILURE_CLASS_TIMEOUT:
		return quiesce.Timeout
	case proto.FailureClass_FAILURE_CLASS_OUT_OF_RESOURCES:
		return quiesce.OutOfResources
	case proto.FailureClass_FAILURE_CLASS_VETOED:
		return quiesce.Vetoed
	case proto.FailureClass_FAILURE_CLASS_NOT_PRESENT:
		return quiesce.NotPresent
	}
	return quiesce.NotRetryable
}

// request is a run on the wire; what the plugin says from now on belongs to it.
func (p *Plugin) request(ctx context.Context, r quiesce.Request) *proto.Request {
	p.lines.during.Store(&spoken{run: r.Run, vm: r.VM, tell: quiesce.Teller(ctx)})
	return &proto.Request{Run: r.Run, Vm: r.VM}
}

// restoreRequest is request for a restore, which is no run.
func (p *Plugin) restoreRequest(ctx context.Context, r quiesce.RestoreRequest) *proto.RestoreRequest {
	p.lines.during.Store(&spoken{vm: r.VM, tell: quiesce.Teller(ctx)})
	return &proto.RestoreRequest{Vm: r.VM, Point: r.Point, Document: r.Document}
}
