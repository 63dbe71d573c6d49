package postgresql

import (
	"errors"
	"strings"
	"testing"

	"github.com/lull-backup/lull/plugins/writers/internal/writertest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

const twoClusters = `pid 150
start 4711
owner 101:102
port 5432
socket /run/postgresql
data /var/lib/postgresql/15/main
psql /usr/lib/postgresql/15/bin/psql
wal /wal/main
space /srv/space one
end
pid 160
start 4712
owner 999:999
port 5432
socket /run/postgresql
data /var/lib/postgresql/data
end
`

func TestParseClusters(t *testing.T) {
	all, err := parseClusters([]byte(twoClusters))
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	if c := all[0]; c.reachable() != nil || c.wal != "/wal/main" || len(c.spaces) != 1 || c.spaces[0] != "/srv/space one" || c.uid != 101 || c.gid != 102 {
		t.Errorf("%+v", c)
	}
	if err := all[1].reachable(); err == nil || !strings.Contains(err.Error(), "container") {
		t.Errorf("a server in a container: %v", err)
	}
	for name, lie := range map[string]string{
		"nothing before": "port 1\n", "no end": "pid 5\n", "no pid": "start 1\nend\n", "pid of init": "pid 1\nend\n",
		"huge pid": "pid 99999999999\nend\n", "negative": "pid -5\nend\n", "relative": "pid 5\ndata x\nend\n", "control": "pid 5\ndata /\x1b\nend\n",
		"port": "pid 5\nport 99999\nend\n", "owner": "pid 5\nowner root\nend\n", "unknown": "pid 5\nshell /bin/sh\nend\n", "incomplete": "pid 5\nend\n",
		"many":        strings.Repeat(twoClusters, 100),
		"many spaces": "pid 5\n" + strings.Repeat("space /x\n", 2000) + "end\n",
		"option":      "pid 5\nstart 1\nsocket -oops\nend\n",
	} {
		if all, err := parseClusters([]byte(lie)); err == nil {
			t.Errorf("%s: %+v", name, all)
		}
	}
}

func TestParseFacts(t *testing.T) {
	f, err := parseFacts([]byte("150020\nf\n7710851587725899834\n1\n0/852A60\n"))
	if err != nil || f.standby || f.version != 150020 || f.checkpoint != "0/852A60" {
		t.Errorf("%+v, %v", f, err)
	}
	for _, lie := range []string{"", "150020", "150020\nx\n1\n1\n0/0", "150020\nt\n1\n1\n0", "15\nt\n1\n1\n0/0", "150020\nt\n-1\n1\n0/0"} {
		if f, err := parseFacts([]byte(lie)); err == nil {
			t.Errorf("%q: %+v", lie, f)
		}
	}
}

func TestRefusals(t *testing.T) {
	one, _, _ := strings.Cut(twoClusters, "pid 160")
	for name, test := range map[string]struct {
		clusters, version, disks string
		class                    quiesce.Class
		says                     string
	}{
		"none":           {"", "", writertest.WholeDisk, quiesce.NotPresent, "no PostgreSQL"},
		"container":      {twoClusters, "150000", writertest.WholeDisk, quiesce.NotRetryable, "container"},
		"old":            {one, "140011", writertest.WholeDisk, quiesce.NotRetryable, "version 14.11 is older than 15"},
		"very old":       {one, "90624", writertest.WholeDisk, quiesce.NotRetryable, "older than 15"},
		"garbage":        {one, "new", writertest.WholeDisk, quiesce.NotRetryable, "is none"},
		"starting":       {one, "fails: FATAL:  the database system is starting up", writertest.WholeDisk, quiesce.Retryable, "starting up"},
		"full":           {one, "fails: FATAL:  sorry, too many clients already", writertest.WholeDisk, quiesce.OutOfResources, "too many clients"},
		"authentication": {one, `fails: FATAL:  Peer authentication failed for user "postgres"`, writertest.WholeDisk, quiesce.NotRetryable, "Peer"},
		"wal":            {one, "150000", writertest.WholeDisk + "23 22 0:9 / /wal rw - tmpfs tmpfs rw\n", quiesce.NotRetryable, `"/wal/main" is on "tmpfs"`},
		"tablespace":     {one, "150000", writertest.WholeDisk + "23 22 0:9 / /srv rw - nfs filer:/s rw\n", quiesce.NotRetryable, `"/srv/space one" is on "filer:/s" (nfs)`},
	} {
		t.Run(name, func(t *testing.T) {
			g := writertest.NewPlay(map[string]string{
				"postmaster.pid": test.clusters, "mountinfo": test.disks, versionSQL: test.version,
			})
			var f *quiesce.Failure
			err := quiescetest.PrepareOnly(t.Context(), New(g, Settings{}), quiesce.Request{})
			if !errors.As(err, &f) || f.Class != test.class || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q of class %v", err, test.says, test.class)
			}
		})
	}
}

func FuzzClusters(f *testing.F) {
	f.Add([]byte(twoClusters))
	f.Add([]byte("pid 5\nend"))
	f.Fuzz(func(t *testing.T, out []byte) {
		all, err := parseClusters(out)
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		for _, c := range all {
			if c.pid < 2 || !strings.HasPrefix(c.data, "/") || strings.ContainsAny(c.data+c.psql+c.socket, "\x00\n\x1b") {
				t.Errorf("%+v", c)
			}
		}
	})
}

func FuzzFacts(f *testing.F) {
	f.Add([]byte("150020\nf\n7710851587725899834\n1\n0/852A60\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		if facts, err := parseFacts(out); err == nil && (!isLSN(facts.checkpoint) || facts.version < 10000) {
			t.Errorf("%+v", facts)
		}
	})
}

func FuzzWAL(f *testing.F) {
	f.Add("wal 150 0/852B10\nwal 160 1/0")
	f.Fuzz(func(t *testing.T, text string) {
		all, _ := parseWAL(strings.Split(text, "\n"))
		for _, lsn := range all {
			if !isLSN(lsn) {
				t.Errorf("%q", lsn)
			}
		}
	})
}
