package s3

import (
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/probe"
	"github.com/lull-backup/lull/transport/blob/s3/s3test"
)

// A real store passes, and says which locks it has.
func TestProbe(t *testing.T) {
	for what, c := range map[string]struct {
		o       s3test.Options
		lock    blob.LockMode
		missing string
	}{
		"plain":      {s3test.Options{}, "", "versions,object lock"},
		"versions":   {s3test.Options{Versions: true}, "", "object lock"},
		"governance": {s3test.Options{Locks: true}, blob.Governance, ""},
		"compliance": {s3test.Options{Locks: true}, blob.Compliance, ""},
	} {
		t.Run(what, func(t *testing.T) {
			s := openStore(t, configOf(s3test.StartWith(t, c.o)))
			r, err := probe.Run(t.Context(), s, probe.Options{Lock: c.lock})
			if err != nil {
				t.Fatal(err)
			}
			var missing []string
			for _, f := range r.Findings {
				if f.Verdict != probe.OK {
					missing = append(missing, f.Name)
				}
			}
			if strings.Join(missing, ",") != c.missing || r.Err() != nil || r.Left != nil {
				t.Errorf("missing %q, %v, left %q: %+v", missing, r.Err(), r.Left, r.Findings)
			}
		})
	}
}
