package config_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/lull-backup/lull/config"
)

// TestExampleFile: what the package installs is right as it stands.
func TestExampleFile(t *testing.T) {
	data, err := os.ReadFile("../packaging/lull.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("lull.yaml", data)
	if err != nil || len(c.Warnings) > 0 {
		t.Errorf("%v, %v", err, c)
	}
}

// TestReference: every whole file that the reference shows is right, every error
// in it is what lull says, and every key is explained.
func TestReference(t *testing.T) {
	data, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(data)
	whole := 0
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(doc, -1) {
		if !strings.Contains(m[1], "repositories:") {
			continue
		}
		whole++
		if _, err := config.Parse("docs", []byte(m[1])); err != nil {
			t.Errorf("%v\nin the example\n%s", err, m[1])
		}
	}
	if whole < 2 {
		t.Errorf("%d whole files in the reference", whole)
	}
	for _, key := range []string{
		"repositories", "dir", "s3", "endpoint", "bucket", "prefix", "region", "ca_file", "credentials_file", "passphrase_file", "key", "key_file", "deduplicate", "trusted", "padding", "compression",
		"object_lock", "mode", "days",
		"hosts", "qemu", "images", "libvirt", "uri", "exclude", "vms", "name", "qmp", "guest_agent", "delta_dir", "wipe_deltas", "space", "free", "delta", "soft", "hard", "disks", "path", "format", "parents",
		"groups", "repository", "schedule", "consistency", "ladder", "floor", "window",
		"tracking", "enabled", "audit", "keep", "last", "daily", "weekly", "monthly", "yearly", "catch_up",
		"agent", "state_dir", "cache_dir", "plugin_dir", "socket", "parallel", "jitter",
		"plugins", "sha256", "grants", "args", "env", "user", "writers",
		"merge", "slow_after", "slow_to", "mount_points", "retry", "attempts", "delay", "until", "scripts", "where", "freeze", "thaw", "limit", "tier",
		"checkpoints", "max_age", "max_growth_gib", "max_depth", "max_stop",
		"databases", "postgresql", "service_file", "only", "mariadb", "defaults_file",
	} {
		if !strings.Contains(doc, "`"+key+"`") {
			t.Errorf("%s is not in the reference", key)
		}
	}
}

// TestReferenceShowsRealErrors holds the errors in the reference against what
// lull says of the file above them.
func TestReferenceShowsRealErrors(t *testing.T) {
	data, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml wrong\n(.*?)```.*?```text\n(.*?)```").FindStringSubmatch(string(data))
	if m == nil {
		t.Fatal("no example of a wrong file")
	}
	shown := strings.ReplaceAll(m[2], "lull: config: ", "") // which the command puts in front
	if got := said(config.Parse("/etc/lull/lull.yaml", []byte(m[1]))); got != shown {
		t.Errorf("the reference shows\n%s\nbut lull says\n%s", shown, got)
	}
}
