package postgresql_test

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
	"github.com/lull-backup/lull/plugins/writers/postgresql"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// TestReal is what the kit does not ask of a real server.
func TestReal(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	db := guesttest.NativePostgres(t)
	r := &rig{T: t, db: db, settings: settings(t, db)}
	for name, run := range map[string]func(*rig){
		"Document": document, "HolderKilled": holderKilled, "WatchKilled": watchKilled, "AskedToEnd": askedToEnd,
		"TimeIsUp": timeIsUp, "LateFreeze": lateFreeze, "Elsewhere": elsewhere, "ServiceFile": serviceFile,
	} {
		t.Run(name, func(t *testing.T) {
			sub := *r
			sub.T = t
			sub.guest = writertest.NewHere(db.Env...)
			sub.writer = postgresql.New(sub.guest, r.settings)
			defer sub.runs()
			run(&sub)
		})
	}
}

type rig struct {
	*testing.T
	db       *guesttest.Native
	settings postgresql.Settings
	guest    *writertest.Here
	writer   *postgresql.Writer
}

// runs aborts, after which the server must take a write.
func (r *rig) runs() {
	if err := r.writer.Abort(r.Context(), quiesce.Request{}); err != nil {
		r.Error(err)
	}
	if standing(r.T, r.db.PID()) {
		r.Error("the server stands still after the abort")
	} else if _, err := r.db.Postgres(r.Context(), "SELECT pg_current_xact_id()"); err != nil {
		r.Error(err)
	}
}

func (r *rig) freeze() {
	r.Helper()
	if err := quiescetest.PrepareOnly(r.Context(), r.writer, quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	if err := r.writer.Freeze(r.Context(), quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	if !standing(r.T, r.db.PID()) {
		r.Fatal("the server does not stand still")
	}
}

// thawed thaws what does not hold any more.
func (r *rig) thawed() {
	r.Helper()
	if res, err := r.writer.Thaw(r.Context(), quiesce.Request{}); err != nil || res.Held {
		r.Errorf("thaw: %+v, %v; want a freeze that had not held", res, err)
	}
}

func (r *rig) await(what string, ok func() bool) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.Fatal("the server does not " + what)
		}
	}
}

// holders are the processes of the hold: the leader, and those that it made.
func (r *rig) holders() (leader int, others []int) {
	r.Helper()
	data, err := os.ReadFile(filepath.Join(r.settings.State, "pid"))
	if err != nil {
		r.Fatal(err)
	}
	leader, err = strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		r.Fatal(err)
	}
	children, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(leader), "task", strconv.Itoa(leader), "children"))
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			r.Fatal(err)
		}
		others = append(others, pid)
	}
	return leader, others
}

func (r *rig) kill(pid int, s syscall.Signal) {
	r.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		r.Fatal(err)
	}
}

// Without lull, and whatever becomes of it, the hold ends by itself.
func timeIsUp(r *rig) {
	r.writer.Hold.Limit = time.Second
	if err := quiescetest.PrepareOnly(r.Context(), r.writer, quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	if err := r.writer.Freeze(r.Context(), quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	r.await("go on when its time is up", func() bool { return !standing(r.T, r.db.PID()) })
	r.thawed()
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
	var d postgresql.Document
	if err := json.Unmarshal(doc, &d); err != nil || len(d.Clusters) != 1 {
		r.Fatalf("%s: %v", doc, err)
	}
	c := d.Clusters[0]
	after, err := r.db.Postgres(r.Context(), "SELECT pg_current_wal_flush_lsn() >= '"+c.FreezeLSN+"' AND '"+c.FreezeLSN+"' > '"+c.CheckpointLSN+"'::pg_lsn")
	if err != nil || after != "t" || c.DataDirectory != r.db.Data || !strings.HasPrefix(c.Version, "15.") {
		r.Errorf("%+v: %s, %v", c, after, err)
	}
}

// The process that stopped the server is killed: the one that watches it lets go on.
func holderKilled(r *rig) {
	r.freeze()
	_, others := r.holders()
	r.kill(others[0], syscall.SIGKILL) // the pipeline's first
	r.await("go on when its holder is killed", func() bool { return !standing(r.T, r.db.PID()) })
	r.thawed()
}

// The watch is killed: the holder lets go on.
func watchKilled(r *rig) {
	r.freeze()
	_, others := r.holders()
	r.kill(others[len(others)-1], syscall.SIGKILL)
	r.await("go on when the watch is killed", func() bool { return !standing(r.T, r.db.PID()) })
	r.thawed()
}

// A service manager ends the guest agent and all that it started.
func askedToEnd(r *rig) {
	r.freeze()
	leader, _ := r.holders()
	r.kill(-leader, syscall.SIGTERM)
	r.await("go on when its holder is asked to end", func() bool { return !standing(r.T, r.db.PID()) })
	r.thawed()
}

// A freeze that was given up, and comes after the abort.
func lateFreeze(r *rig) {
	if err := quiescetest.PrepareOnly(r.Context(), r.writer, quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	if err := postgresql.New(r.guest, r.settings).Abort(r.Context(), quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	var f *quiesce.Failure
	if err := r.writer.Freeze(r.Context(), quiesce.Request{}); !errors.As(err, &f) || f.Class != quiesce.Retryable {
		r.Errorf("late freeze: %v, want a retryable failure", err)
	}
	if standing(r.T, r.db.PID()) {
		r.Error("a late freeze stopped the server")
	}
}

// The data directory is on a file system of the network.
func elsewhere(r *rig) {
	r.guest.Disks = writertest.PartitionedDisk + "23 22 0:50 / " + filepath.Dir(r.db.Data) + " rw - nfs4 filer:/pg rw\n"
	var f *quiesce.Failure
	err := quiescetest.PrepareOnly(r.Context(), r.writer, quiesce.Request{})
	if !errors.As(err, &f) || f.Class != quiesce.NotRetryable || f.Component != r.db.Data || !strings.Contains(err.Error(), `"filer:/pg" (nfs4)`) {
		r.Errorf("prepare: %v, want a failure that names the place", err)
	}
}

// A service file is used where it is there, and its password stays in it.
func serviceFile(r *rig) {
	hba := filepath.Join(r.db.Data, "pg_hba.conf")
	old, err := os.ReadFile(hba)
	if err == nil {
		err = os.WriteFile(hba, append([]byte("local all backup scram-sha-256\n"), old...), 0o600)
	}
	if err != nil {
		r.Fatal(err)
	}
	if _, err := r.db.Postgres(r.Context(), "CREATE ROLE backup LOGIN PASSWORD 'correct horse' IN ROLE pg_checkpoint, pg_monitor; SELECT pg_reload_conf()"); err != nil {
		r.Fatal(err)
	}
	r.settings.ServiceFile = filepath.Join(r.TempDir(), "pg_service.conf")
	r.writer = postgresql.New(r.guest, r.settings)
	write := func(password string) {
		if err := os.WriteFile(r.settings.ServiceFile, []byte("[lull]\nuser=backup\npassword="+password+"\n"), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	write("correct horse")
	r.await("read its new pg_hba.conf", func() bool { return quiescetest.PrepareOnly(r.Context(), r.writer, quiesce.Request{}) == nil })
	if err := r.writer.Freeze(r.Context(), quiesce.Request{}); err != nil {
		r.Fatal(err)
	}
	if res, err := r.writer.Thaw(r.Context(), quiesce.Request{}); err != nil || !res.Held {
		r.Errorf("thaw: %+v, %v", res, err)
	}
	write("wrong horse")
	var f *quiesce.Failure
	if err := quiescetest.PrepareOnly(r.Context(), r.writer, quiesce.Request{}); !errors.As(err, &f) || f.Class != quiesce.NotRetryable || f.Hint() == "" || strings.Contains(err.Error(), "horse") {
		r.Errorf("prepare with a wrong password: %v", err)
	}
}

// A primary and its standby are two servers of one guest: both are held together.
func TestStandby(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	primary := guesttest.NativePostgres(t)
	standby := guesttest.NativeStandby(t, primary)
	s := settings(t, primary)
	s.Only = append(s.Only, standby.Data)
	w := postgresql.New(writertest.NewHere(primary.Env...), s)
	if err := quiescetest.PrepareOnly(t.Context(), w, quiesce.Request{}); err != nil {
		t.Fatal(err)
	}
	if err := w.Freeze(t.Context(), quiesce.Request{}); err != nil {
		t.Fatal(err)
	}
	if !standing(t, primary.PID()) || !standing(t, standby.PID()) {
		t.Error("one of them does not stand still")
	}
	if res, err := w.Thaw(t.Context(), quiesce.Request{}); err != nil || !res.Held || standing(t, primary.PID()) || standing(t, standby.PID()) {
		t.Fatalf("thaw: %+v, %v", res, err)
	}
	doc, err := w.PostSnapshot(t.Context(), quiesce.Request{})
	var d postgresql.Document
	if err := errors.Join(err, json.Unmarshal(doc, &d)); err != nil || len(d.Clusters) != 2 {
		t.Fatalf("%s: %v", doc, err)
	}
	for _, c := range d.Clusters {
		if c.Standby != (c.DataDirectory == standby.Data) || c.FreezeLSN == "" || c.SystemIdentifier != d.Clusters[0].SystemIdentifier {
			t.Errorf("%+v", c)
		}
	}
	if _, err := primary.Postgres(t.Context(), "SELECT pg_current_xact_id()"); err != nil {
		t.Error(err)
	}
}

// A server that dies in the window has not held until its end, and what it leaves behind
// does not stand for ever.
func TestDied(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	db := guesttest.NativePostgres(t)
	r := &rig{T: t, db: db, settings: settings(t, db), guest: writertest.NewHere(db.Env...)}
	r.writer = postgresql.New(r.guest, r.settings)
	r.freeze()
	pid := strconv.Itoa(db.PID())
	list, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	children := strings.Fields(string(list))
	if err != nil || len(children) == 0 {
		t.Fatalf("children %q: %v", list, err)
	}
	r.kill(db.PID(), syscall.SIGKILL)
	r.await("end", func() bool { return syscall.Kill(db.PID(), 0) != nil })
	r.thawed()
	for _, child := range children {
		r.await("let go of "+child, func() bool {
			stat, err := os.ReadFile(filepath.Join("/proc", child, "stat"))
			return err != nil || !strings.Contains(string(stat), ") T ")
		})
	}
}
