package snapshot_test

import (
	"os/exec"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// TestShellWord lets a real shell read what was quoted.
func TestShellWord(t *testing.T) {
	for _, s := range []string{
		"", "plain", "/srv/vm/disk.qcow2", "two words", "it's", "''", "$HOME", "`id`", "a\\b", "*", "~", "new\nline", "-n", "a;b", "ü", "#x",
	} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+snapshot.ShellWord(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("%q is quoted as %s, which the shell reads as %q, %v", s, snapshot.ShellWord(s), out, err)
		}
	}
	if got := snapshot.ShellWord("/srv/web.qcow2"); got != "/srv/web.qcow2" {
		t.Errorf("quoted without need: %s", got)
	}
}
