package mariadb_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull-backup/lull/plugins/writers/internal/writertest"
	"github.com/lull-backup/lull/plugins/writers/mariadb"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// TestReal is what the kit does not ask of a real server.
func TestReal(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	realServer(t, guesttest.NativeMariaDB(t), map[string]func(*rig){
		"Document": document, "LeaderKilled": leaderKilled, "ConnectionKilled": connectionKilled, "AskedToEnd": askedToEnd,
		"TimeIsUp": timeIsUp, "LateFreeze": lateFreeze, "Elsewhere": elsewhere, "LongStatement": longStatement, "OpenTransaction": openTransaction, "OptionsFile": optionsFile, "Pipe": pipe,
	})
}

func realServer(t *testing.T, db *guesttest.Native, tests map[string]func(*rig)) {
	if _, err := db.MariaDB(t.Context(), "CREATE DATABASE t; CREATE TABLE t.t (n int) ENGINE=InnoDB; CREATE TABLE t.m (n int) ENGINE=MyISAM"); err != nil {
		t.Fatal(err)
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			r := &rig{T: t, db: db, settings: settings(t, db), guest: writertest.NewHere(db.Env...)}
			r.writer = mariadb.New(r.guest, r.settings)
			defer func() {
				if err := r.writer.Abort(t.Context(), quiesce.Request{}); err != nil {
					t.Error(err)
				}
				if frozen(t, db) {
					t.Error("the server is locked after the abort")
				}
			}()
			run(r)
		})
	}
}

type rig struct {
	*testing.T
	db       *guesttest.Native
	settings mariadb.Settings
	guest    *writertest.Here
	writer   *mariadb.Writer
}

func (r *rig) mySQL() bool { return !strings.Contains(r.sql("SELECT VERSION()"), "MariaDB") }

func (r *rig) prepare() {
	r.Helper()
	if err := quiescetest.PrepareOnly(r.Context(), r.writer, quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) freeze() {
	r.Helper()
	r.prepare()
	if err := r.writer.Freeze(r.Context(), quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	if !frozen(r.T, r.db) {
		r.Fatal("the server is not locked")
	}
}

// broken waits until the lock is gone, and thaws what does not hold any more.
func (r *rig) broken(how string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for frozen(r.T, r.db) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.Fatalf("the lock outlives %s", how)
		}
	}
	if res, err := r.writer.Thaw(r.Context(), quiesce.Request{}); err != nil || res.Held {
		r.Errorf("thaw after %s: %+v, %v; want a freeze that had not held", how, res, err)
	}
}

func (r *rig) signal(group bool, s syscall.Signal) {
	r.Helper()
	data, err := os.ReadFile(filepath.Join(r.settings.State, "pid"))
	if err != nil {
		r.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		r.Fatal(err)
	}
	if group {
		pid = -pid
	}
	if err := syscall.Kill(pid, s); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) sql(text string) string {
	r.Helper()
	out, err := r.db.MariaDB(r.Context(), text)
	if err != nil {
		r.Fatal(err)
	}
	return out
}

func document(r *rig) {
	r.freeze()
	if res, err := r.writer.Thaw(r.Context(), quiesce.Request{}); err != nil || !res.Held {
		r.Fatalf("thaw: %+v, %v", res, err)
	}
	doc, err := r.writer.PostSnapshot(r.Context(), quiesce.Request{})
	if err != nil {
		r.Fatal(err)
	}
	var d mariadb.Document
	if err := json.Unmarshal(doc, &d); err != nil || len(d.Servers) != 1 {
		r.Fatalf("%s: %v", doc, err)
	}
	s := d.Servers[0]
	product, question := "MariaDB", "SHOW MASTER STATUS"
	if r.mySQL() {
		product, question = "MySQL", "SHOW BINARY LOG STATUS"
	}
	now := strings.Fields(r.sql(question))
	if s.Product != product || s.DataDirectory != r.db.Data || s.BinlogFile != now[0] || s.BinlogPosition == "" || s.GTID == "" || s.Engines["MyISAM"] != 1 {
		r.Errorf("%+v, the binary log is at %q", s, now)
	}
}

func leaderKilled(r *rig) {
	r.freeze()
	r.signal(false, syscall.SIGKILL)
	r.broken("the leader of the hold")
}

// Without lull, and whatever becomes of it, the hold ends by itself.
func timeIsUp(r *rig) {
	r.writer.Hold.Limit = time.Second
	r.prepare()
	if err := r.writer.Freeze(r.Context(), quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	r.broken("its time")
}

func askedToEnd(r *rig) {
	r.freeze()
	r.signal(true, syscall.SIGTERM)
	r.broken("the hold")
}

// An administrator kills the connection; another one's answer is none of its own.
func connectionKilled(r *rig) {
	r.freeze()
	id := r.sql("SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND = 'Sleep' AND ID <> CONNECTION_ID() ORDER BY ID DESC LIMIT 1")
	r.sql("KILL " + id)
	r.broken("its connection")
}

func lateFreeze(r *rig) {
	r.prepare()
	if err := mariadb.New(r.guest, r.settings).Abort(r.Context(), quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	var f *quiesce.Failure
	if err := r.writer.Freeze(r.Context(), quiesce.Request{}); !errors.As(err, &f) || f.Class != quiesce.Retryable {
		r.Errorf("late freeze: %v, want a retryable failure", err)
	}
	if frozen(r.T, r.db) {
		r.Error("a late freeze locked the server")
	}
}

func elsewhere(r *rig) {
	r.guest.Disks = writertest.PartitionedDisk + "23 22 0:50 / " + r.db.Data + "/t rw - tmpfs tmpfs rw\n"
	var f *quiesce.Failure
	err := quiescetest.PrepareOnly(r.Context(), r.writer, quiesce.Request{})
	if !errors.As(err, &f) || f.Class != quiesce.NotRetryable || f.Component != r.db.Data || !strings.Contains(err.Error(), `"tmpfs" (tmpfs)`) {
		r.Errorf("prepare: %v, want a failure that names the place", err)
	}
}

// A statement that writes a table without transactions is in the way: it is named by
// its number and age, and not by its text.
func longStatement(r *rig) {
	r.prepare()
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.db.MariaDB(ctx, "INSERT INTO t.m SELECT SLEEP(600) + 4711") // ends by KILL
	}()
	defer func() { cancel(); <-done }()
	id := r.running()
	defer func() { r.sql("KILL " + id) }()
	budget, cancelFreeze := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancelFreeze()
	begin := time.Now()
	var f *quiesce.Failure
	err := r.writer.Freeze(budget, quiesce.Request{})
	if !errors.As(err, &f) || f.Class != quiesce.Retryable || !strings.Contains(err.Error(), "statement "+id+" (Query) runs for") || strings.Contains(err.Error(), "4711") {
		r.Errorf("freeze: %v, want a failure that names statement %s", err, id)
	}
	if took := time.Since(begin); took > 10*time.Second {
		r.Errorf("the lock was waited for %v", took)
	}
}

// running waits for the statement that sleeps, and gives its number.
func (r *rig) running() string {
	r.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if id := r.sql("SELECT ID FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'"); id != "" {
			return id
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			r.Fatal("the statement does not begin")
		}
	}
}

// A transaction of InnoDB that is open is not in the way.
func openTransaction(r *rig) {
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.db.MariaDB(ctx, "BEGIN; INSERT INTO t.t VALUES (1); SELECT SLEEP(600)")
	}()
	defer func() { cancel(); <-done }()
	id := r.running()
	defer func() { r.sql("KILL " + id) }()
	r.freeze()
	if res, err := r.writer.Thaw(r.Context(), quiesce.Request{}); err != nil || !res.Held {
		r.Errorf("thaw: %+v, %v", res, err)
	}
}

// A pipe in the data directory with the name of a link file is not read.
func pipe(r *rig) {
	file := filepath.Join(r.db.Data, "x.isl")
	if err := syscall.Mkfifo(file, 0o666); err != nil {
		r.Fatal(err)
	}
	defer os.Remove(file)
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	if err := quiescetest.PrepareOnly(ctx, r.writer, quiesce.Request{}); err != nil {
		r.Error(err)
	}
}

// An options file is used where it is there, and its password stays in it.
func optionsFile(r *rig) {
	further := "BINLOG MONITOR"
	if r.mySQL() {
		further = "BACKUP_ADMIN"
	}
	r.sql("CREATE USER IF NOT EXISTS backup@localhost IDENTIFIED BY 'correct horse'; GRANT RELOAD, PROCESS, SELECT ON *.* TO backup@localhost; GRANT " + further + " ON *.* TO backup@localhost")
	file := filepath.Join(r.TempDir(), "lull.cnf")
	write := func(password string) {
		if err := os.WriteFile(file, []byte("[client]\nuser=backup\npassword="+password+"\n"), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	r.settings.DefaultsFile = file
	r.writer = mariadb.New(r.guest, r.settings)
	write("'correct horse'")
	r.freeze()
	if res, err := r.writer.Thaw(r.Context(), quiesce.Request{}); err != nil || !res.Held {
		r.Errorf("thaw: %+v, %v", res, err)
	}
	write("'wrong horse'")
	var f *quiesce.Failure
	if err := quiescetest.PrepareOnly(r.Context(), r.writer, quiesce.Request{}); !errors.As(err, &f) || f.Class != quiesce.NotRetryable || f.Hint() == "" || strings.Contains(err.Error(), "horse") {
		r.Errorf("prepare with a wrong password: %v", err)
	}
}
