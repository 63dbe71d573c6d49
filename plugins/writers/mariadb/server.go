package mariadb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
)

// Bounds of what a guest may have.
const (
	maxServers = 16
	maxSockets = 4096 // that a server has open, or that listen
	maxFiles   = 4096 // places of one server's files
	maxPID     = 1 << 22
)

// server is a running process, as the guest has it.
type server struct {
	pid     int
	data    string
	client  string
	login   inguest.Login
	inside  bool // commands see its files: it is in no container
	sockets []string

	open    map[string]bool // numbers of the sockets that it has open
	listens [][2]string     // number and path
}

// parseServers reads what findScript prints.
func parseServers(out []byte) ([]server, error) {
	var all []server
	var s *server
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		if key == "pid" && s == nil {
			s = &server{open: map[string]bool{}}
		}
		switch {
		case s == nil:
			return nil, fmt.Errorf("%.40q is outside of a server", lines.Text())
		case key == "end":
			if s.pid == 0 || s.data == "" || len(all) == maxServers {
				return nil, errors.New("a server is incomplete, or there are too many")
			}
			s.findSockets()
			all, s = append(all, *s), nil
		default:
			if err := s.set(key, value); err != nil {
				return nil, err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if s != nil {
		return nil, errors.New("the answer ends within a server")
	}
	return all, nil
}

func (s *server) set(key, value string) (err error) {
	bad := fmt.Errorf("%s of a server is %.60q", key, value)
	switch key {
	case "pid":
		s.pid, err = strconv.Atoi(value)
		if err != nil || s.pid < 1 || s.pid > maxPID {
			return bad
		}
	case "data":
		if s.data = value; !inguest.Clean(value) || !path.IsAbs(value) {
			return bad
		}
	case "client":
		s.inside, s.client = true, value
		if value != "" && (!inguest.Clean(value) || !path.IsAbs(value)) {
			return bad
		}
	case "login":
		s.login = inguest.Login(value)
	case "open":
		if _, err := strconv.ParseUint(value, 10, 64); err != nil || len(s.open) == maxSockets {
			return bad
		}
		s.open[value] = true
	case "listens":
		number, name, _ := strings.Cut(value, " ")
		if len(s.listens) == maxSockets {
			return bad
		}
		s.listens = append(s.listens, [2]string{number, name})
	default:
		return fmt.Errorf("a server has %.40q", key)
	}
	return nil
}

// findSockets are those that the server listens on, but for that of MySQL's X protocol,
// another language.
func (s *server) findSockets() {
	for _, l := range s.listens {
		if s.open[l[0]] && inguest.Clean(l[1]) && path.IsAbs(l[1]) && !strings.Contains(path.Base(l[1]), "mysqlx") {
			s.sockets = append(s.sockets, l[1])
		}
	}
	slices.Sort(s.sockets)
	s.sockets = slices.Compact(s.sockets)
	s.open, s.listens = nil, nil
}

// variables are the settings of a server that matter here.
type variables map[string]string

// variablesSQL asks for them; a server leaves out what it does not know.
const variablesSQL = `SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'datadir', 'innodb_data_home_dir',
 'innodb_log_group_home_dir', 'innodb_undo_directory', 'innodb_doublewrite_dir', 'innodb_data_file_path', 'aria_log_dir_path', 'log_bin', 'log_bin_basename', 'relay_log_basename',
 'server_id', 'server_uuid', 'innodb_flush_log_at_trx_commit', 'sync_binlog')`

// rows reads what a client prints with --batch: fields with tabs between them.
func rows(out []byte, fields, most int) ([][]string, error) {
	var all [][]string
	for line := range strings.Lines(string(out)) {
		row := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(row) != fields || len(all) == most {
			return nil, fmt.Errorf("%.60q is no row of %d fields, or there are more than %d", line, fields, most)
		}
		for i := range row {
			row[i] = unescape(row[i])
		}
		all = append(all, row)
	}
	return all, nil
}

// unescape reads what --batch makes of tabs, line ends, zeros and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\\`, `\`, `\t`, "\t", `\n`, "\n", `\0`, "\x00").Replace(s)
}

func parseVariables(out []byte) (variables, error) {
	all, err := rows(out, 2, 64)
	if err != nil {
		return nil, err
	}
	v := variables{}
	for _, row := range all {
		v[row[0]] = row[1]
	}
	if _, _, err := v.version(); err != nil {
		return nil, err
	}
	if !inguest.Clean(v["datadir"]) || !path.IsAbs(v["datadir"]) {
		return nil, fmt.Errorf("datadir %.60q is no path", v["datadir"])
	}
	return v, nil
}

// mariaDB tells the two apart.
func (v variables) mariaDB() bool { return strings.Contains(v["version"], "MariaDB") }

func (v variables) product() string {
	if v.mariaDB() {
		return "MariaDB"
	}
	return "MySQL"
}

// version is major and minor. Old MariaDB servers put 5.5.5- in front, for old replicas.
func (v variables) version() (major, minor int, err error) {
	s := v["version"]
	if v.mariaDB() {
		s = strings.TrimPrefix(s, "5.5.5-")
	}
	parts := strings.SplitN(s, ".", 3)
	if len(parts) == 3 {
		major, err = strconv.Atoi(parts[0])
		if err == nil {
			minor, err = strconv.Atoi(parts[1])
		}
	}
	if len(parts) < 3 || err != nil || major < 1 || major > 99 || minor < 0 || minor > 99 {
		return 0, 0, fmt.Errorf("version %.40q is none", s)
	}
	return major, minor, nil
}

// folders are where the settings put files, relative to the data directory. Names of
// logs stand for their folders.
func (v variables) folders() []string {
	var out []string
	for _, key := range []string{"innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "innodb_doublewrite_dir", "aria_log_dir_path"} {
		if v[key] != "" {
			out = append(out, v[key])
		}
	}
	for _, key := range []string{"log_bin_basename", "relay_log_basename"} {
		if v[key] != "" {
			out = append(out, path.Dir(v[key]))
		}
	}
	// ibdata1:12M:autoextend;/srv/ibdata2:1G
	for file := range strings.SplitSeq(v["innodb_data_file_path"], ";") {
		if name, _, _ := strings.Cut(file, ":"); path.IsAbs(name) {
			out = append(out, path.Dir(name))
		}
	}
	return out
}

// parseFiles reads paths, one a line.
func parseFiles(out []byte) ([]string, error) {
	var all []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		if !inguest.Clean(line) || len(all) == maxFiles {
			return nil, fmt.Errorf("%.60q is no path, or there are too many", line)
		}
		if path.IsAbs(line) {
			all = append(all, path.Clean(line))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// position is where a server's binary log was when it was locked.
type position struct {
	file, offset, gtid string
}

// parseLocked reads the lines of the holder: lull-locked, the server's number, file,
// offset, GTIDs.
func parseLocked(lines []string, servers int) (map[int]position, error) {
	all, err := rows([]byte(strings.Join(lines, "\n")), 5, servers)
	if err != nil {
		return nil, err
	}
	out := map[int]position{}
	for _, row := range all {
		n, err := strconv.Atoi(row[1])
		if err != nil || row[0] != "lull-locked" || n < 0 || n >= servers {
			return nil, fmt.Errorf("%.60q is no answer", row)
		}
		out[n] = position{file: known(row[2]), offset: known(row[3]), gtid: known(row[4])}
	}
	if len(out) != servers {
		return nil, fmt.Errorf("%d servers of %d are locked", len(out), servers)
	}
	return out, nil
}

// known is a field that may be NULL.
func known(s string) string {
	if s == "NULL" {
		return ""
	}
	return s[:min(len(s), 16<<10)]
}

// busy is a statement or transaction that is in the way.
type busy struct {
	id      string
	seconds string
	command string
}

// busySQL never asks for the text of a statement, which may hold data. MySQL 9 is to lose the
// table that MySQL 8 had first.
func (v variables) busySQL() string {
	table := "information_schema.PROCESSLIST"
	if major, _, err := v.version(); err == nil && !v.mariaDB() && major > oldestMySQL {
		table = "performance_schema.processlist"
	}
	return `SELECT ID, TIME, COMMAND FROM ` + table + ` WHERE ID <> CONNECTION_ID()
 AND COMMAND NOT IN ('Daemon', 'Sleep', 'Binlog Dump', 'Binlog Dump GTID', 'Slave_IO', 'Slave_SQL', 'Slave_worker') AND TIME >= 1 ORDER BY TIME DESC LIMIT 3`
}

func parseBusy(out []byte) ([]busy, error) {
	all, err := rows(out, 3, 3)
	if err != nil {
		return nil, err
	}
	var found []busy
	for _, row := range all {
		_, idErr := strconv.ParseUint(row[0], 10, 64)
		_, timeErr := strconv.ParseFloat(row[1], 64)
		if idErr != nil || timeErr != nil || len(row[2]) > 40 {
			return nil, fmt.Errorf("%.60q is no statement", row)
		}
		found = append(found, busy{id: row[0], seconds: row[1], command: row[2]})
	}
	return found, nil
}

func describe(found []busy) string {
	var parts []string
	for _, b := range found {
		parts = append(parts, fmt.Sprintf("statement %s (%s) runs for %s s", b.id, b.command, b.seconds))
	}
	if parts == nil {
		return "a session holds LOCK TABLES, or has a lock on a table that is not transactional"
	}
	return strings.Join(parts, ", ")
}
