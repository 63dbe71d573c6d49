package quiescetest_test

import (
	"testing"

	"github.com/lull-backup/lull/quiesce/quiescetest"
)

func TestScriptedWriters(t *testing.T) {
	t.Run("application", func(t *testing.T) {
		quiescetest.RunWriter(t, func(*testing.T) quiescetest.Fixture {
			w := quiescetest.App("db")
			return quiescetest.Fixture{Writer: w, Frozen: w.Frozen}
		})
	})
	t.Run("filesystem", func(t *testing.T) {
		quiescetest.RunWriter(t, func(*testing.T) quiescetest.Fixture {
			g := quiescetest.NewGuest()
			return quiescetest.Fixture{Writer: quiescetest.Filesystem(g), Frozen: g.IsFrozen}
		})
	})
}
