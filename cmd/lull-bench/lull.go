package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// writeConfig writes the configuration that lull measures with into a place: one
// repository, at a setting of compression.
func writeConfig(at place, setting, repository string) error {
	compression := ""
	if setting != "default" {
		compression = "    compression: " + setting + "\n"
	}
	text := fmt.Sprintf(`repositories:
  main:
%s%shosts:
  bench: {images: {vms: [{name: none, disks: [{path: /nowhere.raw, format: raw}]}]}}
groups:
  none: {vms: ["*"], repository: main, schedule: "0 0 1 1 *"}
agent: {state_dir: %q, cache_dir: %q, socket: %q}
`, repository, compression, filepath.Join(at.dir, "state"), filepath.Join(at.dir, "cache"), filepath.Join(at.dir, "socket"))
	return os.WriteFile(filepath.Join(at.dir, "lull.yaml"), []byte(text), 0o600)
}

func dirRepository(path string) string { return fmt.Sprintf("    dir: %q\n", path) }

// takesCompression tells whether this lull knows `compression: fast`.
func takesCompression(ctx context.Context, binary, scratch string) bool {
	at := place{dir: scratch}
	if err := writeConfig(at, "fast", dirRepository(scratch)); err != nil {
		return false
	}
	cmd := exec.CommandContext(ctx, binary, "--config", filepath.Join(scratch, "lull.yaml"), "config", "check")
	cmd.Env = []string{"LULL_PASSPHRASE=" + passphrase}
	return cmd.Run() == nil
}
