package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// The configuration knows the grants by name only.
func TestConfigKnowsGrants(t *testing.T) {
	var known []string
	for _, g := range plugins.Grants() {
		known = append(known, string(g))
	}
	if diff := cmp.Diff(known, config.Grants()); diff != "" {
		t.Errorf("(-plugins +config):\n%s", diff)
	}
}

// A plugin whose program was changed is not started, keeps the level application
// out of reach, and takes nothing else with it.
func TestUntrustedPlugin(t *testing.T) {
	program := filepath.Join(t.TempDir(), "redis")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{Plugins: []config.Plugin{{Name: "redis", Path: program, SHA256: strings.Repeat("00", 32)}}}
	in := &invocation{App: &App{Stderr: t.Output()}}
	g := quiescetest.NewGuest()
	writers, stop, err := in.writers(cfg, config.Group{Writers: []string{"redis"}})(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	// What it may have held still before lull died nobody has let go of.
	if err := quiesce.AbortAll(t.Context(), quiesce.Request{}, writers, quiescetest.Logger(t)); !errors.Is(err, plugins.ErrUntrusted) {
		t.Errorf("abort of an earlier run: %v", err)
	}
	held, err := quiesce.Do(t.Context(), quiesce.Job{
		Run: "run-1", VM: "vm", Guest: g, Writers: append(writers, quiescetest.Filesystem(g)),
		Policy: quiesce.Policy{
			Ladder: []quiesce.Level{quiesce.LevelApplication, quiesce.LevelFilesystem}, Floor: quiesce.LevelFilesystem,
			Window: quiesce.MaxWindow,
		},
		Take:   func(context.Context) error { return nil },
		Limits: quiesce.Limits{Abort: time.Minute},
		Log:    quiescetest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	r := held.Report()
	if r.Level != quiesce.LevelFilesystem || !strings.Contains(strings.Join(r.Reasons, "\n"), "does not match its SHA-256") {
		t.Errorf("level %v because %q", r.Level, r.Reasons)
	}
	if err := errors.Join(held.Complete(t.Context(), "point-1"), stop()); err != nil {
		t.Error(err)
	}
}
