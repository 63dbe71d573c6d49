package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/transport/repo"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                      "plain",
		"two\nlines":                 "two lines",
		"\x1b[31mred\x1b[0m":         "[31mred [0m",
		"a\tb  c":                    "a b c",
		"\u202eevil":                 "evil",
		"grün ✓":                     "grün ✓",
		"broken \xff byte":           "broken byte",
		"\x00":                       "",
		strings.Repeat("\r", 10_000): "",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestErrorLines(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want []string
	}{
		{"plain", errors.New("a: b"), []string{"lull: a: b"}},
		{"hint of the kind", fmt.Errorf("open repository main: %w", repo.ErrPassphrase),
			[]string{"lull: open repository main: wrong passphrase; give the passphrase that the repository was made with"}},
		{"own hint wins", withHint(repo.ErrPassphrase, "look under the mat"),
			[]string{"lull: wrong passphrase; look under the mat"}},
		{"joined", errors.Join(errors.New("read disk"), errors.New("merge delta")),
			[]string{"lull: read disk, and merge delta"}},
		{"interrupted", fmt.Errorf("back up old: %w", agent.ErrInterrupted),
			[]string{"lull: back up old: interrupted; run it again"}},
		{"hostile", errors.New("guest says: \x1b]0;x\x07\nhi"),
			[]string{"lull: guest says: ]0;x , and hi"}},
		{"configuration", fmt.Errorf("load: %w", config.Errors{
			{File: "l.yaml", Line: 3, What: "unknown key dri", Instead: "write dir"},
			{File: "l.yaml", What: "no hosts", Instead: "add hosts"},
		}), []string{"lull: config: l.yaml:3: unknown key dri; write dir", "lull: config: l.yaml: no hosts; add hosts"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, errorLines(c.err)); diff != "" {
				t.Errorf("lines differ (-want +got):\n%s", diff)
			}
		})
	}
}
