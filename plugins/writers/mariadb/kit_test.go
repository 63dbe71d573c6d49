package mariadb_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/plugintest"
	"github.com/lull-backup/lull/plugins/writers/internal/writertest"
	"github.com/lull-backup/lull/plugins/writers/mariadb"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

func TestMain(m *testing.M) { writertest.Main(m, mariadb.Serve) }

func settings(t *testing.T, db *guesttest.Native) mariadb.Settings {
	return mariadb.Settings{Only: []string{db.Data}, State: filepath.Join(t.TempDir(), "state")}
}

// The kit over a real server, which runs on this machine.
func TestKit(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	db := guesttest.NativeMariaDB(t)
	if _, err := db.MariaDB(t.Context(), "CREATE DATABASE t; CREATE TABLE t.t (n int) ENGINE=InnoDB"); err != nil {
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
		Frozen: func() bool { return frozen(t, db) },
	})
}

// frozen tries to write.
func frozen(t *testing.T, db *guesttest.Native) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer cancel()
	_, err := db.MariaDB(ctx, "SET SESSION lock_wait_timeout = 0; INSERT INTO t.t VALUES (1)")
	if err != nil && !strings.Contains(err.Error(), "ERROR 1205") {
		t.Error(err)
	}
	return err != nil
}
