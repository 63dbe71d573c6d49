package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What `lull plugin init` writes is a project whose test is green, built against
// this repository without the network.
func TestPluginInitWorks(t *testing.T) {
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	app := &App{Stdout: t.Output(), Stderr: t.Output(), Env: func(string) string { return "" }}
	if code := app.Run(t.Context(), []string{"plugin", "init", "my-writer", "--source", source}); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, args := range [][]string{{"vet", "./..."}, {"test", "./..."}} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = "my-writer"
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	unformatted, err := exec.CommandContext(t.Context(), "gofmt", "-l", "my-writer").CombinedOutput()
	if err != nil || len(unformatted) > 0 {
		t.Errorf("gofmt: %v, %s", err, unformatted)
	}
}
