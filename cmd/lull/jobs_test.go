package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
)

func TestMatchVM(t *testing.T) {
	cfg := &config.Config{Path: "lull.yaml", Hosts: []config.Host{
		{Name: "cold", Images: []config.ImageVM{{Name: "old"}, {Name: "web"}}},
		{Name: "lab", QEMU: []config.QEMUVM{{Name: "db"}, {Name: "web"}}},
	}}
	for _, c := range []struct {
		arg  string
		want []string
		code int
	}{
		{"lab/web", []string{"lab/web"}, 0},
		{"db", []string{"lab/db"}, 0},
		{"web", nil, exitUsage},
		{"*", []string{"cold/old", "cold/web", "lab/db", "lab/web"}, 0},
		{"lab/*", []string{"lab/db", "lab/web"}, 0},
		{"?eb", []string{"cold/web", "lab/web"}, 0},
		{"*/web", []string{"cold/web", "lab/web"}, 0},
		{"mail", nil, exitNotFound},
		{"mail*", nil, exitNotFound},
		{"lab/mail", nil, exitNotFound},
		{"[", nil, exitUsage},
		{"", nil, exitNotFound},
	} {
		t.Run(c.arg, func(t *testing.T) {
			got, err := matchVM(cfg, c.arg)
			if exitCode(err) != c.code {
				t.Errorf("matchVM(%q): %v, want exit code %d", c.arg, err, c.code)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("matchVM(%q) differs (-want +got):\n%s", c.arg, diff)
			}
		})
	}
}

func TestFormatByName(t *testing.T) {
	for path, want := range map[string]snapshot.Format{
		"/srv/a.qcow2": snapshot.FormatQcow2,
		"a.QCOW2":      snapshot.FormatQcow2,
		"a.qcow":       snapshot.FormatQcow2,
		"a.img":        snapshot.FormatRaw,
		"a":            snapshot.FormatRaw,
		"qcow2":        snapshot.FormatRaw,
	} {
		if got := formatByName(path); got != want {
			t.Errorf("formatByName(%s) = %s, want %s", path, got, want)
		}
	}
}

func TestStem(t *testing.T) {
	for path, want := range map[string]string{
		"/srv/old/disk.qcow2": "disk",
		"disk":                "disk",
		"a.b.img":             "a.b",
		".hidden":             ".hidden",
		"/":                   "/",
	} {
		if got := stem(path); got != want {
			t.Errorf("stem(%s) = %s, want %s", path, got, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		"old": true, "my disk": true, "grün": true, "a.b-c_d": true,
		"": false, "a@b": false, "a/b": false, "a*": false, "-x": false, ".x": false, "a\nb": false, "a  b": false,
		"0123456789012345678901234567890123456789012345678901234567890123":  true,
		"01234567890123456789012345678901234567890123456789012345678901234": false,
	} {
		if err := checkName(name); (err == nil) != good {
			t.Errorf("checkName(%q) = %v, want good: %v", name, err, good)
		}
	}
}
