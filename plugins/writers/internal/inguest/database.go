package inguest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// Database is what the writers of databases in a guest have in common: they embed it.
type Database struct {
	Hold Hold
}

// NewDatabase is for a writer by name. state is a folder of the guest that a reboot
// empties; empty: the one in /run that has the writer's name.
func NewDatabase(name string, guest snapshot.Guest, state string) Database {
	return Database{Hold: Hold{Shell: Shell{Guest: guest, Writer: name}, State: cmp.Or(state, "/run/lull-"+name)}}
}

// Connect gets the guest where the writer is a plugin.
func (d *Database) Connect(_ context.Context, g sdk.Guest) error {
	d.Hold.Guest = g
	return nil
}

// Identify does not ask the guest.
func (d *Database) Identify(context.Context) (quiesce.Identity, error) {
	return quiesce.Identity{Name: d.Hold.Writer, Version: "1", Tier: quiesce.BackEnd, Level: quiesce.LevelApplication}, nil
}

// Complete has nothing to do: what archives or expires logs is the server's own.
func (d *Database) Complete(context.Context, quiesce.CompleteRequest) error { return nil }

// PreRestore has nothing to do.
func (d *Database) PreRestore(context.Context, quiesce.RestoreRequest) error { return nil }

// PostRestore has nothing to do: the server recovers when it starts.
func (d *Database) PostRestore(context.Context, quiesce.RestoreRequest) error { return nil }

// Find runs the script that looks for servers, and parses its answer. folder is a
// server's data directory: where only has any, the others are left out.
func Find[S any](ctx context.Context, d *Database, script string, parse func([]byte) ([]S, error), folder func(S) string, only []string) ([]S, error) {
	if err := d.Hold.HasShell(ctx); err != nil {
		return nil, err
	}
	out, err := d.Hold.Run(ctx, script)
	if err != nil {
		return nil, err
	}
	all, err := parse(out)
	if err != nil {
		return nil, d.Hold.Fail(fmt.Errorf("find servers: %w", err))
	}
	if len(only) > 0 {
		all = slices.DeleteFunc(all, func(s S) bool { return !slices.Contains(only, folder(s)) })
	}
	return all, nil
}

// Serve is the main function of a plugin. settings are S as JSON; empty: the zero value.
func Serve[S any, W quiesce.Writer](settings string, writer func(snapshot.Guest, S) W) error {
	var s S
	if settings != "" {
		if err := json.Unmarshal([]byte(settings), &s); err != nil {
			return fmt.Errorf("read settings: %w", err)
		}
	}
	return sdk.Serve(writer(nil, s))
}
