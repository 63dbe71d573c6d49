package guesttest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Native is one of the Databases that runs on this host, for a test that has no need
// for a guest.
type Native struct {
	Data   string // its data directory
	Socket string // a folder for PostgreSQL, a file for MariaDB
	Tree   string
	Env    []string // what its programs need

	client  string // of MySQL, which runs in an environment of its own; else empty
	process *process
}

const nativeLimit = time.Minute

// NativePostgres starts a PostgreSQL that ends with the test.
func NativePostgres(t testing.TB) *Native {
	n := newNative(t, BuiltDatabases(t).Tree)
	n.Socket = filepath.Dir(n.Data)
	ctx, cancel := context.WithTimeout(t.Context(), nativeLimit)
	defer cancel()
	if err := InitPostgres(ctx, n.Tree, n.Data); err != nil {
		t.Fatal(err)
	}
	n.startPostgres(ctx, t)
	return n
}

func (n *Native) startPostgres(ctx context.Context, t testing.TB) {
	t.Helper()
	n.start(t, syscall.SIGINT, "usr/lib/postgresql/15/bin/postgres", "-D", n.Data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+n.Socket,
		"-c", "timezone=GMT", "-c", "log_timezone=GMT", "-c", "shared_buffers=16MB", "-c", "jit=off")
	n.await(ctx, t, func() error { _, err := n.Postgres(ctx, "SELECT 1"); return err })
}

// NativeStandby starts a PostgreSQL that follows another.
func NativeStandby(t testing.TB, primary *Native) *Native {
	n := newNative(t, BuiltDatabases(t).Tree)
	n.Socket = filepath.Dir(n.Data)
	ctx, cancel := context.WithTimeout(t.Context(), nativeLimit)
	defer cancel()
	cmd := TreeCommand(ctx, n.Tree, "usr/lib/postgresql/15/bin/pg_basebackup", "-h", primary.Socket, "-D", n.Data, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v: %s", err, out)
	}
	n.startPostgres(ctx, t)
	return n
}

// NativeMariaDB starts a MariaDB that ends with the test.
func NativeMariaDB(t testing.TB) *Native {
	n := newNative(t, BuiltDatabases(t).Tree)
	n.Socket = filepath.Join(filepath.Dir(n.Data), "socket")
	ctx, cancel := context.WithTimeout(t.Context(), nativeLimit)
	defer cancel()
	if err := InitMariaDB(ctx, n.Tree, n.Data); err != nil {
		t.Fatal(err)
	}
	n.start(t, syscall.SIGTERM, "usr/sbin/mariadbd", "--no-defaults", "--datadir="+n.Data, "--tmpdir="+n.Data, "--socket="+n.Socket, "--skip-networking",
		"--log-bin="+filepath.Join(n.Data, "log"),
		"--server-id=1", "--lc-messages-dir="+filepath.Join(n.Tree, "usr/share/mysql"), "--pid-file="+filepath.Join(n.Data, "pid"), "--innodb-buffer-pool-size=16M", "--innodb-use-native-aio=0", "--performance-schema=off")
	n.await(ctx, t, func() error { _, err := n.MariaDB(ctx, "SELECT 1"); return err })
	return n
}

// newNative makes folders that another user can reach: no database runs as root.
func newNative(t testing.TB, built string) *Native {
	t.Helper()
	dir, err := os.MkdirTemp("", workPattern)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	own := filepath.Join(dir, "own")
	n := &Native{Tree: filepath.Join(dir, "tree"), Data: filepath.Join(own, "data")}
	if err := linkTree(t.Context(), built, n.Tree); err != nil {
		t.Fatal(err)
	}
	for _, step := range []error{os.Chmod(dir, 0o755), os.Mkdir(own, 0o755), OrdinaryUser().own(own)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	n.Env = TreeCommand(t.Context(), n.Tree, "").Env
	return n
}

// linkTree copies a tree that nobody writes to, by links where they can be.
func linkTree(ctx context.Context, from, to string) error {
	return tool(ctx, "coreutils", "sh", "-c", `cp -al "$1" "$2" 2>/dev/null || { rm -rf "$2"; cp -a "$1" "$2"; }`, "cp", from, to)
}

func (n *Native) start(t testing.TB, end syscall.Signal, program string, args ...string) {
	t.Helper()
	cmd := TreeCommand(context.WithoutCancel(t.Context()), n.Tree, program, args...)
	log := filepath.Join(filepath.Dir(n.Data), "log")
	var err error
	if n.process, err = spawn(log, cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range []syscall.Signal{syscall.SIGCONT, end} { // a test may have left it standing
			_ = n.process.cmd.Process.Signal(s)
		}
		select {
		case <-n.process.done:
		case <-time.After(nativeLimit):
			_ = n.process.cmd.Process.Kill()
			<-n.process.done
		}
		if text, err := os.ReadFile(log); err == nil && t.Failed() {
			t.Logf("%s", text[max(0, len(text)-maxLogTail):])
		}
	})
}

func (n *Native) await(ctx context.Context, t testing.TB, ready func() error) {
	t.Helper()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-n.process.done:
			t.Fatalf("the database ended: %v: %v", n.process.err, err)
		case <-ctx.Done():
			t.Fatalf("the database does not come up: %v", err)
		}
	}
}

// PID of the server.
func (n *Native) PID() int { return n.process.cmd.Process.Pid }

// Postgres runs SQL.
func (n *Native) Postgres(ctx context.Context, sql string) (string, error) {
	return n.output(TreeCommand(ctx, n.Tree, "usr/lib/postgresql/15/bin/psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-h", n.Socket, "-d", "postgres", "-c", sql))
}

// MariaDB runs SQL, in MySQL too where that is what it is.
func (n *Native) MariaDB(ctx context.Context, sql string) (string, error) {
	if n.client != "" {
		cmd := exec.CommandContext(ctx, n.client, "--no-defaults", "--batch", "--skip-column-names", "--socket="+n.Socket, "--user="+user(), "-e", sql)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
		return n.output(cmd)
	}
	cmd := TreeCommand(ctx, n.Tree, "usr/bin/mariadb", "--no-defaults", "--batch", "--skip-column-names", "--socket="+n.Socket, "-e", sql)
	if os.Geteuid() == 0 { // and not nobody, as the server
		cmd.SysProcAttr.Credential = nil
		cmd.Args = append(cmd.Args, "--user=root")
	}
	return n.output(cmd)
}

// user is who runs the test.
func user() string {
	if u, err := osuser.Current(); err == nil {
		return u.Username
	}
	return "root"
}

func (n *Native) output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}
