package main

import (
	"context"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
)

// configured is a plugin by the name that the configuration has for it, whatever it calls itself:
// by that a restore finds the one that has left a document, and none passes for another.
type configured struct {
	*plugins.Plugin
	name string
}

// Identify leaves a name alone that no writer may have.
func (c configured) Identify(ctx context.Context) (quiesce.Identity, error) {
	id, err := c.Plugin.Identify(ctx)
	if err != nil {
		return id, err
	}
	named := id
	named.Name = c.name
	if named.Check() != nil {
		return id, nil
	}
	return named, nil
}
