package main

import (
	"testing"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/transport/repo"
)

func TestCompression(t *testing.T) {
	for _, c := range []struct{ flag, configured, want string }{
		{"", "", ""}, {"", "best", "best"}, {"fast", "best", "fast"}, {"auto", "fast", "auto"},
	} {
		in := &invocation{flags: globalFlags{compression: c.flag}}
		if got, err := in.compression(config.Repository{Compression: c.configured}); err != nil || got != repo.Compression(c.want) {
			t.Errorf("flag %q, configured %q: %q, %v", c.flag, c.configured, got, err)
		}
	}
	in := &invocation{flags: globalFlags{compression: "9"}}
	if _, err := in.compression(config.Repository{}); err == nil || exitCode(err) != exitUsage {
		t.Errorf("--compression 9: %v", err)
	}
}
