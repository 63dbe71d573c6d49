package mariadb

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// Name of the writer.
const Name = "mariadb"

// Settings of the writer. The zero value is for most guests.
type Settings struct {
	// DefaultsFile is an options file with a section [client], used in guests that have
	// it, for servers that a login may be given to; for others, socket
	// authentication as root.
	DefaultsFile string `json:"defaults_file,omitempty"`
	// Only are the data directories that are looked after; empty: all that are found.
	Only []string `json:"only,omitempty"`
	// State is a folder of the guest that a reboot empties; empty: /run/lull-mariadb.
	State string `json:"state,omitempty"`
}

// Writer holds the MariaDB and MySQL servers of one guest.
type Writer struct {
	inguest.Database
	settings Settings

	turn  uint64 // of the attempt; 0: there is none
	found []found
	at    map[int]position // where the binary logs were, by the server's number
}

// found is a server that was asked who it is.
type found struct {
	server
	socket  string
	is      variables
	files   []string
	engines map[string]int // tables of each
}

var (
	_ quiesce.Writer = (*Writer)(nil)
	_ sdk.Connector  = (*Writer)(nil)
)

// New is the writer of a guest; nil is a VM without a way into its guest.
func New(guest snapshot.Guest, s Settings) *Writer {
	return &Writer{settings: s, Database: inguest.NewDatabase(Name, guest, s.State)}
}

// Serve is the main function of the plugin. settings is Settings as JSON; empty: the
// zero value.
func Serve(settings string) error { return inguest.Serve(settings, New) }

// Prepare finds the servers, and proves that all their files are on the VM's disks.
func (w *Writer) Prepare(ctx context.Context, r quiesce.PrepareRequest) ([]quiesce.Component, error) {
	w.turn, w.found, w.at = 0, nil, nil
	servers, err := w.find(ctx)
	if err != nil {
		return nil, err
	}
	storage, err := w.Hold.LookAtStorage(ctx)
	if err != nil {
		return nil, err
	}
	var all []found
	var components []quiesce.Component
	for _, s := range servers {
		f, err := w.prepare(ctx, s)
		if err != nil {
			return nil, err
		}
		one := quiesce.Component{Name: s.data, Files: f.files}
		if one.Disks, err = storage.Covered(f.files, r.Disks); err != nil {
			return nil, s.failure(quiesce.NotRetryable, err, inguest.HintMove(err, "the server"))
		}
		all, components = append(all, f), append(components, one)
	}
	turn, err := w.Hold.Begin(ctx)
	if err != nil {
		return nil, err
	}
	w.turn, w.found = turn, all
	return components, nil
}

func (w *Writer) find(ctx context.Context) ([]server, error) {
	all, err := inguest.Find(ctx, &w.Database, findScript, parseServers, func(s server) string { return s.data }, w.settings.Only)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &quiesce.Failure{Class: quiesce.NotPresent, Writer: Name, Err: errors.New("no MariaDB or MySQL server runs in this guest")}
	}
	for _, s := range all {
		if err := s.reachable(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// reachable says why a server cannot be held.
func (s server) reachable() error {
	switch {
	case !s.inside:
		return s.failure(quiesce.NotRetryable, errors.New("it runs in a container"), "let the group do without this writer, or take the container's data out of it")
	case s.client == "":
		return s.failure(quiesce.NotRetryable, errors.New("there is no client in the guest"), "install mariadb-client, or mysql-client, in the guest")
	case len(s.sockets) == 0:
		return s.failure(quiesce.Retryable, errors.New("it listens on no Unix socket"), "wait until it is up, or set socket in its configuration")
	}
	return nil
}

func (s server) failure(class quiesce.Class, err error, next string) error {
	return &quiesce.Failure{Class: class, Writer: Name, Component: s.data, Err: err, Next: next}
}

// prepare asks a server who it is and where its files are.
func (w *Writer) prepare(ctx context.Context, s server) (f found, err error) {
	f = found{server: s, engines: map[string]int{}}
	var out []byte
	for _, f.socket = range s.sockets { // the first that speaks the language
		if out, err = w.ask(ctx, f, variablesSQL); err == nil {
			break
		}
	}
	if err != nil {
		return f, err
	}
	if f.is, err = parseVariables(out); err != nil {
		return f, s.failure(quiesce.NotRetryable, err, "")
	}
	if f.is.tooOld() {
		return f, s.failure(quiesce.NotRetryable, fmt.Errorf("%s %.60s is older than MariaDB 10 or MySQL 8", f.is.product(), f.is["version"]), "upgrade it, or let the group do without this writer")
	}
	if f.files, err = w.files(ctx, f); err != nil {
		return f, err
	}
	f.engines, err = w.engines(ctx, f)
	return f, err
}

// datafilesSQL names tables that a MySQL keeps outside of its data directory.
const datafilesSQL = `SELECT DISTINCT PATH FROM information_schema.INNODB_DATAFILES WHERE PATH LIKE '/%' LIMIT 1000`

func (w *Writer) files(ctx context.Context, f found) ([]string, error) {
	args := append([]string{f.data, f.is["datadir"]}, f.is.folders()...)
	if !f.is.mariaDB() {
		out, err := w.ask(ctx, f, datafilesSQL)
		if err != nil {
			return nil, err
		}
		paths, err := parseFiles(out)
		if err != nil {
			return nil, f.failure(quiesce.NotRetryable, err, "")
		}
		args = append(args, paths...)
	}
	out, err := w.Hold.Run(ctx, filesScript, args...)
	if err != nil {
		return nil, err
	}
	files, err := parseFiles(out)
	if err == nil && len(files) == 0 {
		err = errors.New("the server has no files")
	}
	if err != nil {
		return nil, f.failure(quiesce.NotRetryable, err, "")
	}
	return files, nil
}

const enginesSQL = `SELECT ENGINE, COUNT(*) FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE IS NOT NULL
 AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') GROUP BY ENGINE`

func (w *Writer) engines(ctx context.Context, f found) (map[string]int, error) {
	out, err := w.ask(ctx, f, enginesSQL)
	if err != nil {
		return nil, err
	}
	all, err := rows(out, 2, 64)
	if err != nil {
		return nil, f.failure(quiesce.NotRetryable, err, "")
	}
	engines := map[string]int{}
	for _, row := range all {
		n, err := strconv.Atoi(row[1])
		if err != nil || !inguest.Clean(row[0]) || len(row[0]) > 64 {
			return nil, f.failure(quiesce.NotRetryable, fmt.Errorf("%.60q is no engine", row), "")
		}
		engines[row[0]] = n
	}
	return engines, nil
}

// ask runs SQL in the guest.
func (w *Writer) ask(ctx context.Context, f found, sql string) ([]byte, error) {
	out, err := w.Hold.Run(ctx, askScript, f.client, f.socket, w.optionsFile(f.server), "-e", sql)
	return out, f.typed(err)
}

// typed finds the class of what a client said.
func (s server) typed(err error) error {
	var exit *inguest.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	const hint = "let root log in over the socket, or name a defaults_file"
	for _, known := range []struct {
		words string
		class quiesce.Class
		next  string
	}{
		{"ERROR 1040 ", quiesce.OutOfResources, "raise max_connections"},
		{"ERROR 1045 ", quiesce.NotRetryable, hint},
		{"ERROR 1698 ", quiesce.NotRetryable, hint},
		{"ERROR 1227 ", quiesce.NotRetryable, "the account needs RELOAD, PROCESS, and BACKUP_ADMIN in MySQL"},
		{"ERROR 2002 ", quiesce.Retryable, "wait until it is up"},
		{"ERROR 1205 ", quiesce.Retryable, ""},
	} {
		if strings.Contains(exit.Said, known.words) {
			return s.failure(known.class, exit, known.next)
		}
	}
	return s.failure(quiesce.NotRetryable, exit, "")
}

// Freeze locks the servers.
func (w *Writer) Freeze(ctx context.Context, _ quiesce.Request) error {
	if w.turn == 0 {
		return w.Hold.Fail(errors.New("freeze without prepare"))
	}
	args := []string{w.Hold.Seconds()}
	for i, f := range w.found {
		args = append(args, f.client, f.socket, w.optionsFile(f.server), f.is.lockSQL(i, waitIn(ctx), inguest.Longest))
	}
	lines, err := w.Hold.Take(ctx, w.turn, holder, args...)
	if err != nil {
		return w.explain(ctx, w.found[0].typed(err))
	}
	w.at, err = parseLocked(lines, len(w.found))
	return w.Hold.Fail(err)
}

// optionsFile is what a server is given to log in with.
func (w *Writer) optionsFile(s server) string {
	if s.login.Allows(w.settings.Only, s.data) {
		return w.settings.DefaultsFile
	}
	return ""
}

// waitIn leaves the half of what is left of a call.
func waitIn(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return longestWait
	}
	return min(longestWait, max(shortestWait, (time.Until(deadline)/2).Truncate(time.Second)))
}

// explainIn bounds the search for what is in the way, while the others of the window hold
// still: a second, or a quarter of what is left of the call where that is more.
func explainIn(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return max(time.Second, time.Until(deadline)/4)
}

// explain says of a lock that was not to be had which statements are in the way.
func (w *Writer) explain(ctx context.Context, err error) error {
	var exit *inguest.ExitError
	if !errors.As(err, &exit) || !strings.Contains(exit.Said, "ERROR 1205 ") {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, explainIn(ctx))
	defer cancel()
	for _, f := range w.found {
		out, askErr := w.ask(ctx, f, f.is.busySQL())
		if askErr != nil {
			continue
		}
		if found, parseErr := parseBusy(out); parseErr == nil && (len(found) > 0 || len(w.found) == 1) {
			return f.failure(quiesce.Retryable, fmt.Errorf("it cannot be locked: %s", describe(found)), "wait for its end, or plan the backup for a quieter time")
		}
	}
	return err
}

// Thaw releases the servers. The freeze had held where the very connections that took
// the locks answered until then.
func (w *Writer) Thaw(ctx context.Context, _ quiesce.Request) (quiesce.ThawResult, error) {
	held, err := w.Hold.Release(ctx, "")
	return quiesce.ThawResult{Held: held}, err
}

// Abort releases the servers, whoever locked them.
func (w *Writer) Abort(ctx context.Context, _ quiesce.Request) error {
	w.turn = 0
	return w.Hold.ReleaseSurely(ctx, "")
}

// Document is what a restore point keeps of the servers.
type Document struct {
	Servers []DocumentServer `json:"servers"`
}

// DocumentServer is one server.
type DocumentServer struct {
	Product       string         `json:"product"` // MariaDB or MySQL
	Version       string         `json:"version"`
	DataDirectory string         `json:"data_directory"`
	Socket        string         `json:"socket"`
	Files         []string       `json:"files"`             // where they are
	Engines       map[string]int `json:"engines,omitempty"` // tables of each
	Lock          string         `json:"lock"`
	ServerID      string         `json:"server_id,omitempty"`
	// Where the binary log was at the freeze; empty without one.
	BinlogFile     string `json:"binlog_file,omitempty"`
	BinlogPosition string `json:"binlog_position,omitempty"`
	GTID           string `json:"gtid,omitempty"`
}

// PostSnapshot describes the servers.
func (w *Writer) PostSnapshot(context.Context, quiesce.Request) ([]byte, error) {
	if w.at == nil {
		return nil, nil
	}
	var d Document
	for i, f := range w.found {
		at := w.at[i]
		d.Servers = append(d.Servers, DocumentServer{
			Product: f.is.product(), Version: f.is["version"], DataDirectory: path.Clean(f.is["datadir"]), Socket: f.socket, Files: f.files, Engines: f.engines,
			Lock: f.is.lockName(), ServerID: cmp.Or(f.is["server_uuid"], f.is["server_id"]),
			BinlogFile: at.file, BinlogPosition: at.offset, GTID: at.gtid,
		})
	}
	return json.Marshal(d)
}
