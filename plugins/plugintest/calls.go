package plugintest

import (
	"context"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// call is one call of the contract, and whether the window is open before it.
type call struct {
	name   quiescetest.Call
	frozen bool
	run    func(context.Context, *plugins.Plugin) error
}

func calls() []call {
	restore := quiesce.RestoreRequest{VM: request().VM, Point: "point-1"}
	return []call{
		{quiescetest.Identify, false, func(ctx context.Context, p *plugins.Plugin) error { _, err := p.Identify(ctx); return err }},
		{quiescetest.Prepare, false, func(ctx context.Context, p *plugins.Plugin) error { return quiescetest.PrepareOnly(ctx, p, request()) }},
		{quiescetest.Freeze, false, func(ctx context.Context, p *plugins.Plugin) error { return p.Freeze(ctx, request()) }},
		{quiescetest.Thaw, true, func(ctx context.Context, p *plugins.Plugin) error { _, err := p.Thaw(ctx, request()); return err }},
		{quiescetest.PostSnapshot, false, func(ctx context.Context, p *plugins.Plugin) error {
			_, err := p.PostSnapshot(ctx, request())
			return err
		}},
		{quiescetest.Complete, false, func(ctx context.Context, p *plugins.Plugin) error {
			return quiescetest.CompleteWith(ctx, p, request(), nil)
		}},
		{quiescetest.Abort, true, func(ctx context.Context, p *plugins.Plugin) error { return p.Abort(ctx, request()) }},
		{quiescetest.PreRestore, false, func(ctx context.Context, p *plugins.Plugin) error { return p.PreRestore(ctx, restore) }},
		{quiescetest.PostRestore, false, func(ctx context.Context, p *plugins.Plugin) error { return p.PostRestore(ctx, restore) }},
	}
}
