package filesystem

import (
	"strings"
	"testing"
)

func FuzzFailedHooks(f *testing.F) {
	f.Add([]byte("Sun: /a finished with status=1\nx: \xff finished with status=22\n"))
	f.Fuzz(func(t *testing.T, log []byte) {
		names := failedHooks(log)
		if len(names) > maxHooks || len(strings.Join(names, "")) > maxHooks*700 {
			t.Errorf("%d names: %q", len(names), names)
		}
	})
}
