package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/plugins/writers/mariadb"
	"github.com/lull-backup/lull/plugins/writers/postgresql"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// The guest is emulated, and each program in it takes its time to start.
const databaseRules = `schedule: manual, consistency: {ladder: [application, filesystem, crash], window: 60s}`

// TestGuestDatabases backs up a guest whose PostgreSQL and MariaDB are written to all the
// time, again and again, and restores each point: both come up, find themselves whole, and
// hold every row that was acknowledged before the freeze, and none of after it.
func TestGuestDatabases(t *testing.T) {
	t.Parallel()
	l := newDatabaseLab(t)
	acked := map[string]uint64{} // at the freeze, by restore point
	for round := range 2 {
		var atFreeze uint64
		l.hear = func(e agent.Event) {
			if e.Step == agent.StepFrozen {
				atFreeze = l.acked()
			}
		}
		before := l.acked()
		l.lull(exitDone, "backup", "lab/web")
		l.hear = nil
		q := l.result().Point.Quiesce
		t.Logf("round %d: window %v, %d rows", round, q.Window.Round(time.Millisecond), atFreeze)
		if q.Level != quiesce.LevelApplication || atFreeze < before {
			t.Fatalf("level %v with %d rows, after %d: %q", q.Level, atFreeze, before, q.Reasons)
		}
		l.goesOn()
		l.documents(q)
		l.databaseOutcomes(q)
		acked[l.result().Point.ID] = atFreeze
	}
	l.guest.Kill()
	for point, rows := range acked {
		l.restoresDatabases(point, rows)
	}
}

// newDatabaseLab is a lab whose guest's databases are written to.
func newDatabaseLab(t testing.TB) *lab {
	t.Helper()
	l := newLab(t, guesttest.DatabaseOptions(t))
	if err := l.guest.WaitDatabases(l.ctx); err != nil {
		t.Fatal(err)
	}
	l.configure(l.web(), databaseRules)
	l.inGuest("setsid nice -n 19 /sbin/ledger >/run/ledger.log 2>&1 </dev/null &")
	if err := l.guest.WaitAcked(l.ctx, 10); err != nil {
		out, _ := l.guest.Exec(l.ctx, "/bin/sh", "-c", "cat /run/ledger.log")
		t.Fatalf("%v\n%s", err, out)
	}
	return l
}

// documents are what the restore point keeps of both.
func (l *lab) documents(q quiesce.Report) {
	l.t.Helper()
	docs := map[string][]byte{}
	for _, w := range q.Writers {
		docs[w.Identity.Name] = w.Document
	}
	var pg postgresql.Document
	if err := json.Unmarshal(docs[postgresql.Name], &pg); err != nil || len(pg.Clusters) != 1 {
		l.t.Fatalf("%s: %v", docs[postgresql.Name], err)
	}
	c := pg.Clusters[0]
	if c.DataDirectory != "/data/0/postgres" || c.WAL != "/data/1/wal" || len(c.Tablespaces) != 1 || c.Tablespaces[0] != "/data/1/space" || c.FreezeLSN == "" || c.Standby {
		l.t.Errorf("%+v", c)
	}
	var my mariadb.Document
	if err := json.Unmarshal(docs[mariadb.Name], &my); err != nil || len(my.Servers) != 1 {
		l.t.Fatalf("%s: %v", docs[mariadb.Name], err)
	}
	s := my.Servers[0]
	if s.Product != "MariaDB" || s.DataDirectory != "/data/0/mysql" || s.GTID == "" || s.BinlogPosition == "" || s.Engines["MyISAM"] != 1 {
		l.t.Errorf("%+v", s)
	}
}

// databaseOutcomes: host and guest agree on which disks each database is, by the serial numbers
// or the places that both know.
func (l *lab) databaseOutcomes(q quiesce.Report) {
	l.t.Helper()
	var disks []string
	for _, d := range l.result().Point.Disks {
		disks = append(disks, d.Name)
	}
	slices.Sort(disks)
	found := 0
	for _, o := range q.Components {
		if !o.Succeeded || o.Name == "" {
			continue
		}
		found++
		if o.Level != quiesce.LevelApplication || len(disks) != 3 || !slices.Equal(o.Disks, disks[1:]) {
			l.t.Errorf("outcome %+v, want both disks of data of %q", o, disks)
		}
	}
	if found != 2 {
		l.t.Errorf("outcomes of databases: %+v", q.Components)
	}
}

// restoresDatabases boots what a point holds, and looks at its databases.
func (l *lab) restoresDatabases(point string, acked uint64) {
	l.t.Helper()
	to := filepath.Join(l.dir, point)
	l.lull(exitDone, "restore", "web@"+point, "--to", to)
	stop, ended := l.start(to)
	defer stop()
	socket := filepath.Join(to, "qga.sock")
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for err := guesttest.DatabasesReady(l.ctx, socket); err != nil; err = guesttest.DatabasesReady(l.ctx, socket) {
		select {
		case <-tick.C:
		case <-ended:
			l.t.Fatal("the restored VM has ended:", err)
		case <-l.ctx.Done():
			l.t.Fatal("the restored databases do not come up:", err)
		}
	}
	l.rows(socket, acked)
	out, err := guesttest.Exec(l.ctx, socket, "/bin/sh", "-c", `exec setpriv --reuid postgres --regid postgres --init-groups /usr/lib/postgresql/15/bin/pg_amcheck -h /run/postgresql --install-missing --heapallindexed -d postgres`)
	if err != nil || len(out) > 0 {
		l.t.Errorf("pg_amcheck: %v\n%s", err, out)
	}
	said, err := guesttest.MariaDB(l.ctx, socket, "CHECK TABLE ledger.ledger, ledger.churn, ledger.aria, ledger.myisam EXTENDED")
	for line := range strings.Lines(said) {
		if !strings.HasSuffix(strings.TrimSpace(line), "status\tOK") {
			l.t.Errorf("CHECK TABLE: %s", line)
		}
	}
	if err != nil {
		l.t.Error(err)
	}
}

// rows holds each ledger against what was acknowledged when all stood still: one more may have been
// on its way.
func (l *lab) rows(socket string, acked uint64) {
	l.t.Helper()
	const question = "SELECT COUNT(*), MIN(n), MAX(n), SUM(CASE WHEN sum = md5(%s) THEN 1 ELSE 0 END) FROM %s"
	pg, err := guesttest.Postgres(l.ctx, socket, "postgres", fmt.Sprintf(question, "n::text", "ledger"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.whole4("postgresql", strings.Split(pg, "|"), acked)
	for _, table := range []string{"ledger", "aria", "myisam"} {
		my, err := guesttest.MariaDB(l.ctx, socket, fmt.Sprintf(question, "n", "ledger."+table))
		if err != nil {
			l.t.Fatal(err)
		}
		l.whole4("mariadb "+table, strings.Split(my, "\t"), acked)
	}
}

// whole4 checks count, first, last, and how many sums are right.
func (l *lab) whole4(what string, f []string, acked uint64) {
	l.t.Helper()
	for _, n := range []uint64{acked, acked + 1} {
		want := fmt.Sprint(n)
		if len(f) == 4 && f[0] == want && f[1] == "1" && f[2] == want && f[3] == want {
			return
		}
	}
	l.t.Errorf("%s: count, first, last, right sums are %q; %d rows were acknowledged at the freeze", what, f, acked)
}
