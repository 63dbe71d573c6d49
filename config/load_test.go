package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/lull-backup/lull/config"
)

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestLoadLooksAtNamedFiles(t *testing.T) {
	dir := t.TempDir()
	open, tight := filepath.Join(dir, "open"), filepath.Join(dir, "tight")
	write(t, open, "secret\n", 0o644)
	write(t, tight, "secret\n", 0o600)
	path := filepath.Join(dir, "lull.yaml")
	write(t, path, strings.NewReplacer("OPEN", open, "TIGHT", tight, "DIR", dir).Replace(`repositories:
  a: {dir: /srv/a, passphrase_file: OPEN}
  b: {dir: /srv/b, passphrase_file: TIGHT}
  c: {dir: /srv/c, passphrase_file: DIR/none}
  d: {dir: /srv/d, passphrase_file: DIR}
  e: {s3: {endpoint: https://s3.example.net, bucket: vms, ca_file: OPEN, credentials_file: OPEN}}
`), 0o666)

	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range c.Warnings {
		got = append(got, strings.ReplaceAll(w.String(), dir, "DIR"))
	}
	want := []string{
		`DIR/lull.yaml:1: others may write this file (mode 0666); chmod go-w DIR/lull.yaml`,
		`DIR/lull.yaml:2: anyone may read the passphrase_file of repository "a" (mode 0644); chmod 600 DIR/open`,
		`DIR/lull.yaml:4: passphrase_file of repository "c" does not exist; create DIR/none`,
		`DIR/lull.yaml:5: passphrase_file of repository "d" is no regular file; name a file`,
		`DIR/lull.yaml:6: anyone may read the credentials_file of s3 of repository "e" (mode 0644); chmod 600 DIR/open`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	_, err := config.Load(filepath.Join(dir, "none.yaml"))
	var hint interface{ Hint() string }
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--config") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := config.Load(dir); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("folder: %v", err)
	}
	path := filepath.Join(dir, "bad.yaml")
	write(t, path, "repositories: {m: {}}\nx: 1\n", 0o600)
	var list config.Errors
	if _, err := config.Load(path); !errors.As(err, &list) || len(list) != 2 {
		t.Errorf("bad file: %v", err)
	}
}

func TestPassphrase(t *testing.T) {
	dir := t.TempDir()
	env := func(v string) func(string) string {
		return func(key string) string {
			if key != config.PassphraseEnv {
				t.Errorf("asked for $%s", key)
			}
			return v
		}
	}
	for name, c := range map[string]struct {
		file, env string // file "-": none
		want      string
		err       string
	}{
		"file":            {file: "one two \n", env: "other", want: "one two "},
		"file, CRLF":      {file: "one\r\n", want: "one"},
		"file, no ending": {file: "one", want: "one"},
		"longest":         {file: strings.Repeat("x", config.MaxPassphrase) + "\r\n", want: strings.Repeat("x", config.MaxPassphrase)},
		"too long":        {file: strings.Repeat("x", config.MaxPassphrase+1) + "\n", err: "more than 4096 bytes"},
		"endless":         {file: strings.Repeat("x", 1<<20), err: "more than 4096 bytes"},
		"empty file":      {file: "\n", env: "other", err: "is empty"},
		"two lines":       {file: "one\ntwo\n", err: "more than one line"},
		"environment":     {file: "-", env: "other", want: "other"},
		"long variable":   {file: "-", env: strings.Repeat("x", config.MaxPassphrase+1), err: "longer than 4096 bytes"},
		"none":            {file: "-", err: "no passphrase"},
	} {
		t.Run(name, func(t *testing.T) {
			r := config.Repository{Name: "main"}
			if c.file != "-" {
				r.PassphraseFile = filepath.Join(dir, "passphrase")
				write(t, r.PassphraseFile, c.file, 0o600)
			}
			got, err := r.Passphrase(env(c.env))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got error %v, want %q in it", err, c.err)
				}
				return
			}
			if err != nil || string(got) != c.want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestNoPassphraseIsKnown(t *testing.T) {
	_, err := config.Repository{Name: "main"}.Passphrase(func(string) string { return "" })
	if !errors.Is(err, config.ErrNoPassphrase) {
		t.Errorf("got %v", err)
	}
}

func TestLookups(t *testing.T) {
	c, err := config.Parse("x", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Repository("main"); !ok {
		t.Error("no repository main")
	}
	if r, ok := c.Repository("nothing"); ok {
		t.Errorf("a repository that is not there: %v", r)
	}
	names := func(vm string) (out []string) {
		for _, g := range c.GroupsOf(vm) {
			out = append(out, g.Name)
		}
		return out
	}
	if diff := cmp.Diff([]string{"nightly", "offsite"}, names("lab/web")); diff != "" {
		t.Error(diff)
	}
	for pattern, want := range map[string][]string{
		"*":       {"cold/old", "lab/db", "lab/web"},
		"lab/*":   {"lab/db", "lab/web"},
		"lab*":    nil, // without a slash the host does not count
		"*/o?d":   {"cold/old"},
		"[dw]*":   {"lab/db", "lab/web"},
		"lab/web": {"lab/web"},
		"[":       nil,
	} {
		if got := c.Match(pattern); !slices.Equal(got, want) {
			t.Errorf("%s matches %q, want %q", pattern, got, want)
		}
	}
}
