package postgresql_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/plugintest"
	"github.com/lull-backup/lull/plugins/writers/internal/writertest"
	"github.com/lull-backup/lull/plugins/writers/postgresql"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

func TestMain(m *testing.M) { writertest.Main(m, postgresql.Serve) }

func settings(t *testing.T, db *guesttest.Native) postgresql.Settings {
	return postgresql.Settings{Only: []string{db.Data}, State: filepath.Join(t.TempDir(), "state")}
}

// standing says whether a process is stopped.
func standing(t *testing.T, pid int) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasPrefix(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " T")
}

// The kit over a real server, which runs on this machine. When it does not stand still,
// it must take a write.
func TestKit(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	db := guesttest.NativePostgres(t)
	if _, err := db.Postgres(t.Context(), "CREATE TABLE t (n int)"); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(settings(t, db))
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Run(t, plugintest.Options{
		Path: writertest.Self(t), Args: []string{writertest.ServedArg, string(text)},
		Grants: []plugins.Grant{plugins.GrantInfo, plugins.GrantExec},
		Guest:  func() plugintest.Guest { return writertest.NewHere(db.Env...) },
		Frozen: func() bool {
			if standing(t, db.PID()) {
				return true
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
			defer cancel()
			if _, err := db.Postgres(ctx, "INSERT INTO t VALUES (1)"); err != nil {
				t.Errorf("the server is said to run: %v", err)
			}
			return false
		},
	})
}
