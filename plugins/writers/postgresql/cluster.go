package postgresql

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
)

// Bounds of what a guest may have.
const (
	maxClusters = 64
	maxSpaces   = 1024 // tablespaces of a cluster
	maxPID      = 1 << 22
)

// cluster is a running server, as the guest has it.
type cluster struct {
	pid    int
	start  string // of the process, in ticks since the kernel's
	uid    int
	gid    int
	port   int
	socket string // folder; empty where the server has no Unix socket
	data   string
	psql   string // empty: none was found
	login  inguest.Login
	inside bool // its files are seen from where commands run: it is in no container
	wal    string
	spaces []string
}

// parseClusters reads what findScript prints.
func parseClusters(out []byte) ([]cluster, error) {
	var all []cluster
	var c *cluster
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		if key == "pid" && c == nil {
			c = &cluster{}
		}
		if c == nil {
			return nil, fmt.Errorf("%.40q is outside of a cluster", lines.Text())
		}
		if key == "end" {
			if c.pid == 0 || c.start == "" || c.uid < 0 || c.data == "" || len(all) == maxClusters {
				return nil, errors.New("a cluster is incomplete, or there are too many")
			}
			all, c = append(all, *c), nil
			continue
		}
		if err := c.set(key, value); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if c != nil {
		return nil, errors.New("the answer ends within a cluster")
	}
	return all, nil
}

func (c *cluster) set(key, value string) (err error) {
	bad := fmt.Errorf("%s of a cluster is %.60q", key, value)
	switch key {
	case "pid":
		c.pid, err = strconv.Atoi(value)
		if err != nil || c.pid < 2 || c.pid > maxPID {
			return bad
		}
	case "start":
		if _, err := strconv.ParseUint(value, 10, 63); err != nil {
			return bad
		}
		c.start = value
	case "owner":
		uid, gid, _ := strings.Cut(value, ":")
		u, err1 := strconv.ParseUint(uid, 10, 32)
		g, err2 := strconv.ParseUint(gid, 10, 32)
		if err1 != nil || err2 != nil {
			return bad
		}
		c.uid, c.gid = int(u), int(g)
	case "port":
		c.port, err = strconv.Atoi(value)
		if err != nil || c.port < 1 || c.port > 65535 {
			return bad
		}
	case "socket":
		// "Abstract" sockets begin with @.
		if value != "" && (!inguest.Clean(value) || value[0] != '/' && value[0] != '@') {
			return bad
		}
		c.socket = value
	case "login":
		c.login = inguest.Login(value)
	case "data", "wal", "space":
		return c.setPath(key, value, bad)
	case "psql":
		c.inside, c.psql = true, value
		if value != "" && (!inguest.Clean(value) || !path.IsAbs(value)) {
			return bad
		}
	default:
		return fmt.Errorf("a cluster has %.40q", key)
	}
	return nil
}

func (c *cluster) setPath(key, value string, bad error) error {
	if !inguest.Clean(value) || !path.IsAbs(value) {
		return bad
	}
	switch {
	case key == "data":
		c.data = value
	case key == "wal":
		c.wal = value
	case len(c.spaces) == maxSpaces:
		return errors.New("a cluster has too many tablespaces")
	default:
		c.spaces = append(c.spaces, value)
	}
	return nil
}

// facts are what a server says of itself.
type facts struct {
	version    int // such as 150020
	standby    bool
	system     string // identifier
	timeline   string
	checkpoint string // where recovery would begin
}

// factsSQL asks for facts, one a line.
const factsSQL = `SELECT current_setting('server_version_num');
SELECT pg_is_in_recovery();
SELECT system_identifier FROM pg_control_system();
SELECT timeline_id FROM pg_control_checkpoint();
SELECT redo_lsn FROM pg_control_checkpoint()`

// versionSQL is answered by servers of every age.
const versionSQL = `SHOW server_version_num`

func parseVersion(out []byte) (int, error) {
	v, err := strconv.Atoi(strings.TrimSpace(string(out[:min(len(out), 100)])))
	if err != nil || v < 10000 || v > 10000000 {
		return 0, fmt.Errorf("version %.40q is none", out)
	}
	return v, nil
}

func parseFacts(out []byte) (facts, error) {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 5 {
		return facts{}, fmt.Errorf("%d answers to 5 questions", len(lines))
	}
	v, err := parseVersion([]byte(lines[0]))
	if err != nil {
		return facts{}, err
	}
	_, sysErr := strconv.ParseUint(lines[2], 10, 64)
	_, timeErr := strconv.ParseUint(lines[3], 10, 32)
	if lines[1] != "t" && lines[1] != "f" || sysErr != nil || timeErr != nil || !isLSN(lines[4]) {
		return facts{}, fmt.Errorf("%.200q is no answer", lines)
	}
	return facts{version: v, standby: lines[1] == "t", system: lines[2], timeline: lines[3], checkpoint: lines[4]}, nil
}

// isLSN says whether s is a place in the WAL, such as 16/B374D848.
func isLSN(s string) bool {
	hi, lo, ok := strings.Cut(s, "/")
	_, err1 := strconv.ParseUint(hi, 16, 32)
	_, err2 := strconv.ParseUint(lo, 16, 32)
	return ok && err1 == nil && err2 == nil
}

// parseWAL reads the lines "wal PID LSN" of the holder.
func parseWAL(lines []string) (map[int]string, error) {
	out := map[int]string{}
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "wal" || !isLSN(f[2]) || len(out) == maxClusters {
			return nil, fmt.Errorf("%.60q is no place in a WAL", line)
		}
		pid, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("%.60q is no place in a WAL", line)
		}
		out[pid] = f[2]
	}
	return out, nil
}
