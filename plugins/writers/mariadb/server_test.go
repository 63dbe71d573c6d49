package mariadb

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/plugins/writers/internal/writertest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

const oneServer = `pid 160
data /var/lib/mysql
client /usr/bin/mysql
open 17
open 18
listens 17 /run/mysqld/mysqld.sock
listens 18 /run/mysqld/mysqlx.sock
listens 19 /run/other.sock
listens 17
end
`

const (
	mysqlIs   = "datadir\t/var/lib/mysql/\nversion\t8.0.36-0ubuntu0.22.04.1\nversion_comment\t(Ubuntu)\nlog_bin_basename\t/logs/bin\nserver_uuid\tabc\ninnodb_data_file_path\tibdata1:12M;/srv/i/ibdata2:1G\ninnodb_undo_directory\t./\ninnodb_doublewrite_dir\t/dw\n"
	mariadbIs = "datadir\t/var/lib/mysql/\nversion\t10.11.6-MariaDB\n"
)

func TestParseServers(t *testing.T) {
	all, err := parseServers([]byte(oneServer))
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	if diff := cmp.Diff([]string{"/run/mysqld/mysqld.sock"}, all[0].sockets); diff != "" {
		t.Error(diff)
	}
	for name, lie := range map[string]string{
		"nothing before": "open 1\n", "no end": "pid 5\n", "incomplete": "pid 5\nend\n", "relative": "pid 5\ndata x\nend\n",
		"unknown": "pid 5\nx y\nend\n", "many": strings.Repeat(oneServer, 100), "socket": "pid 5\nopen x\nend\n",
		"many sockets": "pid 5\n" + strings.Repeat("listens 1 /x\n", 5000) + "end\n",
	} {
		if all, err := parseServers([]byte(lie)); err == nil {
			t.Errorf("%s: %+v", name, all)
		}
	}
}

func TestToldApart(t *testing.T) {
	if old, now := (variables{"version": "8.4.3"}).busySQL(), (variables{"version": "9.7.4-2"}).busySQL(); !strings.Contains(old, "information_schema") || !strings.Contains(now, "performance_schema") {
		t.Errorf("%s\n%s", old, now)
	}
	for version, want := range map[string]struct {
		product, lock string
		old           bool
	}{
		"8.0.36-0ubuntu0.22.04.1":      {"MySQL", "LOCK INSTANCE FOR BACKUP", false},
		"9.7.4-2":                      {"MySQL", "LOCK INSTANCE FOR BACKUP", false},
		"8.4.3":                        {"MySQL", "LOCK INSTANCE FOR BACKUP", false},
		"5.7.44-log":                   {"MySQL", "", true},
		"10.11.6-MariaDB-log":          {"MariaDB", "BACKUP STAGE BLOCK_COMMIT", false},
		"11.4.2-MariaDB":               {"MariaDB", "BACKUP STAGE BLOCK_COMMIT", false},
		"5.5.5-10.3.39-MariaDB":        {"MariaDB", "FLUSH TABLES WITH READ LOCK", false},
		"5.5.68-MariaDB":               {"MariaDB", "", true},
		"10.4.1-MariaDB-1:10.4.1+trtr": {"MariaDB", "BACKUP STAGE BLOCK_COMMIT", false},
	} {
		v := variables{"version": version}
		if v.product() != want.product || v.tooOld() != want.old {
			t.Errorf("%s: %s, too old: %v", version, v.product(), v.tooOld())
		}
		if sql := v.lockSQL(3, 4*time.Second, 70*time.Second); !want.old && (!strings.Contains(sql, want.lock) || !strings.Contains(sql, "'lull-locked', 3,") || !strings.Contains(sql, "lock_wait_timeout = 4;")) {
			t.Errorf("%s: %s", version, sql)
		}
	}
}

func TestFolders(t *testing.T) {
	v, err := parseVariables([]byte(mysqlIs))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"./", "/dw", "/logs", "/srv/i"}, v.folders()); diff != "" {
		t.Error(diff)
	}
}

func TestParseLocked(t *testing.T) {
	at, err := parseLocked([]string{"lull-locked\t1\tlog.1\t77\t0-1-5", "lull-locked\t0\tNULL\tNULL\ta:1-5,\\nb:1"}, 2)
	if err != nil || at[1] != (position{"log.1", "77", "0-1-5"}) || at[0] != (position{gtid: "a:1-5,\nb:1"}) {
		t.Errorf("%+v, %v", at, err)
	}
	for _, lie := range [][]string{nil, {"lull-locked"}, {"lull-locked\t0\t\t\t"}, {"lull-locked\t0\t\t\t", "lull-locked\t0\t\t\t"}, {"lull-locked\t2\t\t\t", "lull-locked\t0\t\t\t"}, {"x\t0\t\t\t", "x\t1\t\t\t"}} {
		if at, err := parseLocked(lie, 2); err == nil {
			t.Errorf("%q: %+v", lie, at)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		servers, is, files, disks string
		class                     quiesce.Class
		says                      string
	}{
		"none":      {"", "", "", "", quiesce.NotPresent, "no MariaDB"},
		"container": {"pid 5\ndata /var/lib/mysql\nend\n", "", "", writertest.WholeDisk, quiesce.NotRetryable, "container"},
		"no socket": {"pid 5\ndata /var/lib/mysql\nclient /usr/bin/mysql\nend\n", "", "", writertest.WholeDisk, quiesce.Retryable, "socket"},
		"no client": {"pid 5\ndata /var/lib/mysql\nclient \nend\n", "", "", writertest.WholeDisk, quiesce.NotRetryable, "client"},
		"old":       {oneServer, "datadir\t/d\nversion\t5.7.44\n", "/d\n", writertest.WholeDisk, quiesce.NotRetryable, "MySQL 5.7.44 is older"},
		"down":      {oneServer, "fails: ERROR 2002 (HY000): Can't connect", "", writertest.WholeDisk, quiesce.Retryable, "2002"},
		"full":      {oneServer, "fails: ERROR 1040 (HY000): Too many connections", "", writertest.WholeDisk, quiesce.OutOfResources, "1040"},
		"refused":   {oneServer, "fails: ERROR 1698 (28000): Access denied for user 'root'@'localhost'", "", writertest.WholeDisk, quiesce.NotRetryable, "1698"},
		"garbage":   {oneServer, "hello\n", "", writertest.WholeDisk, quiesce.NotRetryable, "no row"},
		"logs":      {oneServer, mysqlIs, "/logs\n/var/lib/mysql\n", writertest.WholeDisk + "23 22 0:9 / /logs rw - nfs4 filer:/logs rw\n", quiesce.NotRetryable, `"/logs" is on "filer:/logs" (nfs4)`},
		"no files":  {oneServer, mariadbIs, "", writertest.WholeDisk, quiesce.NotRetryable, "no files"},
	} {
		t.Run(name, func(t *testing.T) {
			g := writertest.NewPlay(map[string]string{
				"mariadbd | mysqld": test.servers, "mountinfo": test.disks, "SHOW GLOBAL": test.is, "-name '*.isl'": test.files,
			})
			var f *quiesce.Failure
			err := quiescetest.PrepareOnly(t.Context(), New(g, Settings{}), quiesce.Request{})
			if !errors.As(err, &f) || f.Class != test.class || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q of class %v", err, test.says, test.class)
			}
		})
	}
}

// A MySQL, by the answers that its manual promises.
func TestMySQLCycle(t *testing.T) {
	g := writertest.NewPlay(map[string]string{
		"mariadbd | mysqld": oneServer, "mountinfo": writertest.WholeDisk, "SHOW GLOBAL": mysqlIs, "-name '*.isl'": "/logs\n/var/lib/mysql\n", "COUNT(*)": "InnoDB\t12\n",
		"turn=$((n + 1))": "7\n", "LOCK INSTANCE FOR BACKUP": "lull-locked\t0\tbin.000003\t157\tabc:1-5\nheld\n", "flock -w 5 8": "held\n",
	})
	w := New(g, Settings{})
	if err := quiescetest.PrepareOnly(t.Context(), w, quiesce.Request{}); err != nil {
		t.Fatal(err)
	}
	if err := w.Freeze(t.Context(), quiesce.Request{}); err != nil {
		t.Fatal(err)
	}
	if res, err := w.Thaw(t.Context(), quiesce.Request{}); err != nil || !res.Held {
		t.Fatalf("%+v, %v", res, err)
	}
	doc, err := w.PostSnapshot(t.Context(), quiesce.Request{})
	const want = `{"servers":[{"product":"MySQL","version":"8.0.36-0ubuntu0.22.04.1","data_directory":"/var/lib/mysql","socket":"/run/mysqld/mysqld.sock","files":["/logs","/var/lib/mysql"],"engines":{"InnoDB":12},"lock":"LOCK INSTANCE FOR BACKUP, FLUSH TABLES WITH READ LOCK","server_id":"abc","binlog_file":"bin.000003","binlog_position":"157","gtid":"abc:1-5"}]}`
	if diff := cmp.Diff(want, string(doc)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// The client keeps the guest's files from a server that asks for them.
func TestClientArguments(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", askScript, "lull", "echo", "/s", "", "-e", "SELECT 1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), " --local-infile=0 ") || !strings.HasPrefix(string(out), "--no-defaults ") {
		t.Errorf("%s, %v", out, err)
	}
}

func FuzzServers(f *testing.F) {
	f.Add([]byte(oneServer))
	f.Fuzz(func(t *testing.T, out []byte) {
		all, err := parseServers(out)
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		for _, s := range all {
			if s.pid < 1 || strings.ContainsAny(s.data+s.client+strings.Join(s.sockets, ""), "\x00\n\x1b") {
				t.Errorf("%+v", s)
			}
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(mysqlIs))
	f.Add([]byte("lull-locked\t0\tlog.1\t77\t0-1-5\n"))
	f.Add([]byte("7\t12.5\tQuery\n"))
	f.Add([]byte("/a\n/b\n\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		if v, err := parseVariables(out); err == nil {
			_ = v.lockSQL(0, time.Second, time.Second)
			_ = v.folders()
		}
		if found, err := parseBusy(out); err == nil && len(describe(found)) > 1000 {
			t.Errorf("%d bytes", len(describe(found)))
		}
		if files, err := parseFiles(out); err == nil && strings.ContainsAny(strings.Join(files, ""), "\x00\n\x1b") {
			t.Errorf("%q", files)
		}
		_, _ = parseLocked(strings.Split(string(out), "\n"), 3)
	})
}
