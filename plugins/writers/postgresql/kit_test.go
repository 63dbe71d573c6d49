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
	"github.com/lull-backup/lull/plugins/writers/postgresql"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// servedArg makes the test binary the plugin, as lull's own binary is.
const servedArg = "plugin-serve"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == servedArg {
		if err := postgresql.Serve(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// oneDisk is a guest's word for one disk that everything is on.
const oneDisk = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\nblock 254:0 /sys/devices/pci0000:00/virtio1/block/vda\nblock 254:1 /sys/devices/pci0000:00/virtio1/block/vda/vda1\n"

// here is this machine, whose databases need their own libraries, and whose disks are
// those of a VM.
type here struct {
	plugintest.Guest
	env   []string
	disks string
}

func (h *here) Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	if strings.Contains(strings.Join(c.Args, " "), "/proc/self/mountinfo") {
		return snapshot.ExecResult{Stdout: []byte(h.disks)}, nil
	}
	c.Env = append(c.Env, h.env...)
	return h.Guest.Exec(ctx, c)
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

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
	db := guesttest.NativePostgres(t)
	if _, err := db.Postgres(t.Context(), "CREATE TABLE t (n int)"); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(settings(t, db))
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Run(t, plugintest.Options{
		Path: self(t), Args: []string{servedArg, string(text)},
		Grants: []plugins.Grant{plugins.GrantInfo, plugins.GrantExec},
		Guest:  func() plugintest.Guest { return &here{Guest: plugintest.Here(), env: db.Env, disks: oneDisk} },
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
