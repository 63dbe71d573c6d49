package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/config"
)

// typist answers prompts one after the other.
func typist(answers ...string) func(context.Context, string) ([]byte, error) {
	return func(context.Context, string) ([]byte, error) {
		if len(answers) == 0 {
			return nil, io.EOF
		}
		next := answers[0]
		answers = answers[1:]
		return []byte(next), nil
	}
}

func TestPassphrase(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", "from file\n")
	for _, c := range []struct {
		name                  string
		flag, configured, env string
		typed                 []string // nil: no terminal
		isNew, unattended     bool
		want                  string
		code                  int
	}{
		{name: "the flag comes first", flag: good, configured: file("other", "x"), env: "y", want: "from file"},
		{name: "then the configuration", configured: good, env: "y", want: "from file"},
		{name: "then the environment", env: "from env", typed: []string{"z"}, want: "from env"},
		{name: "then the terminal", typed: []string{"typed"}, want: "typed"},
		{name: "twice for a new one", typed: []string{"typed", "typed"}, isNew: true, want: "typed"},
		{name: "two that differ", typed: []string{"typed", "tiped"}, isNew: true, code: exitUsage},
		{name: "nothing typed", typed: []string{""}, code: exitUsage},
		{name: "nobody to ask", code: exitUsage},
		{name: "an agent asks nobody", typed: []string{"typed"}, unattended: true, code: exitUsage},
		{name: "empty file", flag: file("empty", "\n"), code: exitUsage},
		{name: "no such file", flag: filepath.Join(dir, "missing"), env: "y", code: exitUsage},
		{name: "a folder", flag: dir, code: exitUsage},
		{name: "endless file", flag: "/dev/zero", code: exitUsage},
		{name: "large file", flag: file("large", strings.Repeat("x", 1<<16)), code: exitUsage},
		{name: "one newline only is cut", flag: file("spaces", " a b \n"), want: " a b "},
	} {
		t.Run(c.name, func(t *testing.T) {
			app := &App{Env: func(string) string { return c.env }}
			if c.typed != nil {
				app.Ask = typist(c.typed...)
			}
			in := &invocation{App: app, flags: globalFlags{passphrase: c.flag}, unattended: c.unattended}
			r := config.Repository{Name: "main", PassphraseFile: c.configured}
			got, err := in.passphrase(t.Context(), r, c.isNew)
			if exitCode(err) != c.code || string(got) != c.want {
				t.Errorf("got %q, %v; want %q and exit code %d", got, err, c.want, c.code)
			}
			for _, secret := range []string{"typed", "from env", "from file"} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("the error shows the secret: %v", err)
				}
			}
		})
	}
}
