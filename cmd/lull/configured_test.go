package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// A restore looks for the writer that left a document by the name in the configuration.
func TestPluginIsCalledAsConfigured(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), keeperName)
	if err := os.Symlink(program, path); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(bytes)
	in := &invocation{App: &App{Stderr: t.Output()}}
	for name, want := range map[string]string{"shelf": "shelf", "shelf_1": keeperName} { // which no writer may be called
		cfg := &config.Config{Plugins: []config.Plugin{{Name: name, Path: path, SHA256: hex.EncodeToString(sum[:])}}}
		writers, stop, err := in.writers(cfg, config.Group{Writers: []string{name}})(t.Context(), quiescetest.NewGuest())
		if err != nil {
			t.Fatal(err)
		}
		id, err := writers[0].Identify(t.Context())
		if err != nil || id.Name != want {
			t.Errorf("%s: it is called %q (%v), want %q", name, id.Name, err, want)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}
