package guesttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/snapshot/guesttest/record"
)

// WaitReady waits until the guest is up: both agents answer and, with a recorder,
// the first record is acknowledged.
func (g *Guest) WaitReady(ctx context.Context) error {
	for _, socket := range []string{g.Agent, g.Side} {
		if err := g.poll(ctx, "the guest agent", func(ctx context.Context) error { return Ping(ctx, socket) }); err != nil {
			return err
		}
	}
	if g.options.Pause < 0 {
		return nil
	}
	return g.WaitAcked(ctx, 1)
}

// Exec runs a program in the guest through the second agent and returns what it
// printed. An exit code other than 0 is an error.
func (g *Guest) Exec(ctx context.Context, path string, args ...string) ([]byte, error) {
	return Exec(ctx, g.Side, path, args...)
}

// Acked is the last record that the recorder acknowledged since Start; 0: none.
func (g *Guest) Acked() (uint64, error) {
	f, err := os.Open(g.acks)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read acknowledged records: %w", err)
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("read acknowledged records: %w", err)
	}
	// The end of the file holds two lines at least, or all there are.
	tail := make([]byte, min(end, 64))
	if _, err := f.ReadAt(tail, end-int64(len(tail))); err != nil {
		return 0, fmt.Errorf("read acknowledged records: %w", err)
	}
	return lastNumber(tail)
}

// lastNumber reads the last whole line.
func lastNumber(lines []byte) (uint64, error) {
	end := bytes.LastIndexByte(lines, '\n')
	if end < 0 {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(lines[bytes.LastIndexByte(lines[:end], '\n')+1:end]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read acknowledged records: %w", err)
	}
	return n, nil
}

// WaitAcked waits until record n is acknowledged.
func (g *Guest) WaitAcked(ctx context.Context, n uint64) error {
	return g.poll(ctx, fmt.Sprintf("record %d", n), func(context.Context) error {
		last, err := g.Acked()
		if err == nil && last < n {
			err = fmt.Errorf("the last one is %d", last)
		}
		return err
	})
}

// Verify checks from inside the guest what its disks hold now, the record under
// the pen included. The caller stops the recorder around it: two logs that are written
// meanwhile are not read at one instant.
func (g *Guest) Verify(ctx context.Context) (record.Report, error) { return Verify(ctx, g.Side) }

// Found is what this boot's recorder found before it wrote anything.
func (g *Guest) Found(ctx context.Context) (record.Report, error) { return Found(ctx, g.Side) }

// Verify is Guest.Verify for a guest behind any agent's socket.
func Verify(ctx context.Context, agent string) (record.Report, error) {
	return report(ctx, agent, "recorder verify /data/*")
}

// Found is Guest.Found for a guest behind any agent's socket.
func Found(ctx context.Context, agent string) (record.Report, error) {
	return report(ctx, agent, "cat /run/recorder/found.json")
}

func report(ctx context.Context, agent, command string) (record.Report, error) {
	out, err := Exec(ctx, agent, "/bin/sh", "-c", command)
	if err != nil {
		return record.Report{}, err
	}
	var r record.Report
	if err := json.Unmarshal(out, &r); err != nil {
		return record.Report{}, fmt.Errorf("read report: %w", err)
	}
	return r, nil
}

// maxLogTail is how much of each log Logs shows, in bytes.
const maxLogTail = 4 << 10

// Logs is the end of what QEMU and the guest's console said.
func (g *Guest) Logs() string {
	var b bytes.Buffer
	for _, path := range []string{filepath.Join(g.Dir, "qemu.log"), g.SerialLog} {
		log, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", filepath.Base(path), err)
			continue
		}
		fmt.Fprintf(&b, "--- %s\n%s\n", filepath.Base(path), log[max(0, len(log)-maxLogTail):])
	}
	return b.String()
}

// Programs that ask the databases of a guest a question in SQL, as who owns them.
const (
	psql    = `exec setpriv --reuid postgres --regid postgres --init-groups /usr/lib/postgresql/15/bin/psql -XAtq -v ON_ERROR_STOP=1 -h /run/postgresql -d "$1" -c "$2"`
	mariadb = `exec mariadb --batch --skip-column-names -u root -e "$1"`
)

// Postgres runs SQL in a database of a guest with databases.
func Postgres(ctx context.Context, agent, database, sql string) (string, error) {
	out, err := Exec(ctx, agent, "/bin/sh", "-c", psql, "psql", database, sql)
	return strings.TrimSpace(string(out)), err
}

// MariaDB runs SQL in a guest with databases.
func MariaDB(ctx context.Context, agent, sql string) (string, error) {
	out, err := Exec(ctx, agent, "/bin/sh", "-c", mariadb, "mariadb", sql)
	return strings.TrimSpace(string(out)), err
}

// DatabasesReady asks both databases behind an agent's socket for a sign of life.
func DatabasesReady(ctx context.Context, agent string) error {
	_, pgErr := Postgres(ctx, agent, "postgres", "SELECT 1")
	_, myErr := MariaDB(ctx, agent, "SELECT 1")
	return errors.Join(pgErr, myErr)
}

// WaitDatabases waits until both databases answer.
func (g *Guest) WaitDatabases(ctx context.Context) error {
	return g.poll(ctx, "the databases", func(ctx context.Context) error { return DatabasesReady(ctx, g.Side) })
}
