package mariadb_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// TestRealMySQL is TestReal with a MySQL of Debian unstable, and what differs there.
func TestRealMySQL(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	realServer(t, guesttest.NativeMySQL(t), map[string]func(*rig){
		"Document": document, "LeaderKilled": leaderKilled, "ConnectionKilled": connectionKilled, "AskedToEnd": askedToEnd, "LateFreeze": lateFreeze,
		"LongStatement": longStatement, "OpenTransaction": openTransaction, "OptionsFile": optionsFile, "BothLocks": bothLocks, "Restored": restored,
	})
}

// One connection has both locks, of which the first keeps DDL away, and both go with it.
func bothLocks(r *rig) {
	locks := func() string {
		return r.sql("SELECT COUNT(*), COUNT(DISTINCT OWNER_THREAD_ID) FROM performance_schema.metadata_locks WHERE LOCK_STATUS = 'GRANTED' AND LOCK_TYPE = 'SHARED' AND OBJECT_TYPE IN ('BACKUP LOCK', 'GLOBAL')")
	}
	r.freeze()
	if got := locks(); got != "2\t1" {
		r.Errorf("locks, and connections that have them: %q, want 2 and 1", got)
	}
	if _, err := r.db.MariaDB(r.Context(), "SET SESSION lock_wait_timeout = 1; CREATE TABLE t.late (n int)"); err == nil || !strings.Contains(err.Error(), "ERROR 1205") {
		r.Errorf("a table is made in the window: %v", err)
	}
	if res, err := r.writer.Thaw(r.Context(), quiesce.Request{}); err != nil || !res.Held {
		r.Errorf("thaw: %+v, %v", res, err)
	}
	if got := locks(); got != "0\t0" {
		r.Errorf("locks, and connections that have them, after the thaw: %q", got)
	}
}

// What lies in the data directory at one instant of the window, as on disks that are
// frozen, comes up as a server that is whole and has every row that was acknowledged.
func restored(r *rig) {
	r.sql("CREATE TABLE t.ledger (n INT PRIMARY KEY, sum CHAR(64)) ENGINE=InnoDB; CREATE TABLE t.plain (n INT PRIMARY KEY) ENGINE=MyISAM")
	defer func() { r.sql("DROP TABLE t.ledger, t.plain") }()
	load := r.load(3)
	load.await(r.T, 20)
	r.freeze()
	acked := load.acked()
	dir := filepath.Join(filepath.Dir(r.db.Data), "restored")
	if err := os.Mkdir(dir, 0o755); err != nil {
		r.Fatal(err)
	}
	copied := r.copyInstant(filepath.Join(dir, "data"))
	if res, err := r.writer.Thaw(r.Context(), quiesce.Request{}); err != nil || !res.Held {
		r.Fatalf("thaw: %+v, %v", res, err)
	}
	load.end()
	if copied != nil {
		r.Fatal(copied)
	}
	other := r.db.MySQLOn(r.T, filepath.Join(dir, "data"))
	out, err := other.MariaDB(r.Context(), "CHECK TABLE t.ledger, t.plain, t.t, t.m EXTENDED; SELECT n FROM t.ledger WHERE sum = SHA2(n, 256); SELECT -n FROM t.plain")
	if err != nil {
		r.Fatal(err)
	}
	if n := strings.Count(out, "status\tOK\n"); n != 4 {
		r.Errorf("CHECK TABLE: %d tables of 4 are well: %.1000s", n, out)
	}
	rows := strings.Split(out, "\n")
	for _, n := range acked {
		if !slices.Contains(rows, fmt.Sprint(n)) || !slices.Contains(rows, fmt.Sprint(-n)) {
			r.Errorf("row %d was acknowledged before the freeze and is not there", n)
		}
	}
	r.Logf("%d rows were acknowledged", len(acked))
}

// copyInstant copies the data directory as it is at one instant: the server stands meanwhile.
func (r *rig) copyInstant(to string) error {
	if err := syscall.Kill(r.db.PID(), syscall.SIGSTOP); err != nil {
		return err
	}
	out, err := exec.CommandContext(r.Context(), "cp", "-a", r.db.Data, to).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	if again := syscall.Kill(r.db.PID(), syscall.SIGCONT); err == nil {
		err = again
	}
	return err
}

// load are clients that write row after row.
type load struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	more   chan struct{} // has something after each new row
	failed chan struct{} // closed with the first client that does

	mu   sync.Mutex
	rows []int
}

func (r *rig) load(clients int) *load {
	ctx, cancel := context.WithCancel(r.Context())
	l := &load{cancel: cancel, more: make(chan struct{}, 1), failed: make(chan struct{})}
	fail := sync.OnceFunc(func() { close(l.failed) })
	r.Cleanup(l.end)
	for c := range clients {
		l.all.Go(func() {
			for n := c + 1; ; n += clients {
				// The first has no transactions, the second is acknowledged.
				if _, err := r.db.MariaDB(ctx, fmt.Sprintf("INSERT INTO t.plain VALUES (%[1]d); INSERT INTO t.ledger VALUES (%[1]d, SHA2(%[1]d, 256))", n)); err != nil {
					if ctx.Err() == nil {
						r.Error(err)
					}
					fail()
					return
				}
				l.ack(n)
			}
		})
	}
	return l
}

func (l *load) ack(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows = append(l.rows, n)
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *load) acked() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.rows)
}

// await waits for so many rows.
func (l *load) await(t *testing.T, rows int) {
	t.Helper()
	for len(l.acked()) < rows {
		select {
		case <-l.more:
		case <-l.failed:
			t.FailNow()
		}
	}
}

func (l *load) end() {
	l.cancel()
	l.all.Wait()
}
