package postgresql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// Name of the writer.
const Name = "postgresql"

// oldest is the first version that is served, as server_version_num.
const oldest = 150000

// Settings of the writer. The zero value is for most guests.
type Settings struct {
	// ServiceFile is a connection service file with a service [lull], used in guests
	// that have it, for servers that a login may be given to; for others, peer
	// authentication as who owns the server.
	ServiceFile string `json:"service_file,omitempty"`
	// Only are the data directories that are looked after; empty: all that are found.
	Only []string `json:"only,omitempty"`
	// State is a folder of the guest that a reboot empties; empty: /run/lull-postgresql.
	State string `json:"state,omitempty"`
}

// Writer holds the PostgreSQL servers of one guest.
type Writer struct {
	inguest.Database
	settings Settings

	turn     uint64 // of the attempt; 0: there is none
	clusters []cluster
	facts    []facts // of each cluster
	wal      map[int]string
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

// Prepare finds the servers, proves that all their files are on the VM's disks, and has
// them write a checkpoint, so that recovery has little to do.
func (w *Writer) Prepare(ctx context.Context, r quiesce.PrepareRequest) ([]quiesce.Component, error) {
	w.turn, w.clusters, w.facts, w.wal = 0, nil, nil, nil
	clusters, err := w.find(ctx)
	if err != nil {
		return nil, err
	}
	components, err := w.checkFiles(ctx, clusters, r.Disks)
	if err != nil {
		return nil, err
	}
	var all []facts
	for i, c := range clusters {
		sdk.Progress(ctx, "checkpoint of "+c.data, int64(i), int64(len(clusters)))
		f, err := w.prepare(ctx, c)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	turn, err := w.Hold.Begin(ctx)
	if err != nil {
		return nil, err
	}
	w.turn, w.clusters, w.facts = turn, clusters, all
	return components, nil
}

func (w *Writer) find(ctx context.Context) ([]cluster, error) {
	all, err := inguest.Find(ctx, &w.Database, findScript, parseClusters, func(c cluster) string { return c.data }, w.settings.Only)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &quiesce.Failure{Class: quiesce.NotPresent, Writer: Name, Err: errors.New("no PostgreSQL server runs in this guest")}
	}
	for _, c := range all {
		if err := c.reachable(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// reachable says why a server cannot be held.
func (c cluster) reachable() error {
	switch {
	case !c.inside:
		return c.failure(quiesce.NotRetryable, errors.New("it runs in a container"), "let the group do without this writer, or take the container's data out of it")
	case c.psql == "":
		return c.failure(quiesce.NotRetryable, errors.New("there is no psql in the guest"), "install postgresql-client in the guest")
	case c.socket == "" || c.port == 0:
		return c.failure(quiesce.NotRetryable, errors.New("it has no Unix socket"), "set unix_socket_directories in postgresql.conf")
	}
	return nil
}

func (c cluster) failure(class quiesce.Class, err error, next string) error {
	return &quiesce.Failure{Class: class, Writer: Name, Component: c.data, Err: err, Next: next}
}

// checkFiles refuses servers with files that this restore point of the VM would not have.
func (w *Writer) checkFiles(ctx context.Context, clusters []cluster, disks []quiesce.Disk) ([]quiesce.Component, error) {
	storage, err := w.Hold.LookAtStorage(ctx)
	if err != nil {
		return nil, err
	}
	var all []quiesce.Component
	for _, c := range clusters {
		one := quiesce.Component{Name: c.data, Files: slices.Concat([]string{c.data, c.wal}, c.spaces)}
		if one.Disks, err = storage.Covered(one.Files, disks); err != nil {
			return nil, c.failure(quiesce.NotRetryable, err, inguest.HintMove(err, "PostgreSQL"))
		}
		all = append(all, one)
	}
	return all, nil
}

// prepare asks a server who it is, and for a checkpoint. On a standby that is a restart point.
func (w *Writer) prepare(ctx context.Context, c cluster) (facts, error) {
	out, err := w.ask(ctx, c, versionSQL)
	if err != nil {
		return facts{}, err
	}
	version, err := parseVersion(out)
	if err != nil {
		return facts{}, c.failure(quiesce.NotRetryable, err, "")
	}
	if version < oldest {
		return facts{}, c.failure(quiesce.NotRetryable, fmt.Errorf("version %s is older than 15", versionName(version)), "upgrade it, or let the group do without this writer")
	}
	out, err = w.ask(ctx, c, "CHECKPOINT", factsSQL)
	if err != nil {
		return facts{}, err
	}
	f, err := parseFacts(out)
	if err != nil {
		return facts{}, c.failure(quiesce.NotRetryable, err, "")
	}
	return f, nil
}

func versionName(v int) string { return fmt.Sprintf("%d.%d", v/10000, v%10000) }

// ask runs SQL in the guest, one statement or list of SELECTs after the other.
func (w *Writer) ask(ctx context.Context, c cluster, sql ...string) ([]byte, error) {
	args := w.client(c)
	for _, s := range sql {
		args = append(args, "-c", s)
	}
	out, err := w.Hold.Run(ctx, askScript, args...)
	return out, c.typed(err)
}

// client are the arguments that reach a server.
func (w *Writer) client(c cluster) []string {
	service := ""
	if c.login.Allows(w.settings.Only, c.data) {
		service = w.settings.ServiceFile
	}
	return []string{strconv.Itoa(c.uid), strconv.Itoa(c.gid), c.psql, c.socket, strconv.Itoa(c.port), service}
}

// typed finds the class of what psql said.
func (c cluster) typed(err error) error {
	var exit *inguest.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	for _, known := range []struct {
		words string
		class quiesce.Class
		next  string
	}{
		{"too many clients", quiesce.OutOfResources, "raise max_connections or superuser_reserved_connections"},
		{"remaining connection slots", quiesce.OutOfResources, "raise max_connections or superuser_reserved_connections"},
		{"is starting up", quiesce.Retryable, "wait until it is up"},
		{"is shutting down", quiesce.Retryable, ""},
		{"in recovery mode", quiesce.Retryable, "wait until it is up"},
		{"authentication failed", quiesce.NotRetryable, "allow peer authentication for the server's own user, or name a service_file"},
		{"no pg_hba.conf entry", quiesce.NotRetryable, "allow peer authentication for the server's own user, or name a service_file"},
		{"no password supplied", quiesce.NotRetryable, "allow peer authentication for the server's own user, or name a service_file"},
		{"permission denied", quiesce.NotRetryable, "the role needs pg_checkpoint, or to be a superuser"},
		{"must be superuser", quiesce.NotRetryable, "the role needs pg_checkpoint, or to be a superuser"},
		{"does not stop", quiesce.Timeout, "find out what its disk is so slow about"},
	} {
		if strings.Contains(exit.Said, known.words) {
			return c.failure(known.class, exit, known.next)
		}
	}
	return c.failure(quiesce.NotRetryable, exit, "")
}

// What is asked last, before a server stops. On a primary, a transaction that is durable
// makes all before it durable; it does not wait for standbys.
const (
	primarySQL = `BEGIN READ WRITE; SET LOCAL synchronous_commit = local; SELECT pg_current_xact_id(); COMMIT; SELECT pg_current_wal_flush_lsn()`
	standbySQL = `SELECT pg_last_wal_replay_lsn()`
)

// Freeze makes what was acknowledged durable and stops the servers.
func (w *Writer) Freeze(ctx context.Context, _ quiesce.Request) error {
	if w.turn == 0 {
		return w.Hold.Fail(errors.New("freeze without prepare"))
	}
	args := []string{w.Hold.Seconds()}
	for i, c := range w.clusters {
		sql := primarySQL
		if w.facts[i].standby {
			sql = standbySQL
		}
		args = append(args, strconv.Itoa(c.pid), c.start)
		args = append(append(args, w.client(c)...), sql)
	}
	lines, err := w.Hold.Take(ctx, w.turn, holder, args...)
	if err != nil {
		return w.clusters[0].typed(err)
	}
	w.wal, err = parseWAL(lines)
	if err == nil && len(w.wal) != len(w.clusters) {
		err = errors.New("not every cluster has answered")
	}
	return w.Hold.Fail(err)
}

// Thaw lets the servers go on. The freeze had held where each process of each
// server stood still until then.
func (w *Writer) Thaw(ctx context.Context, _ quiesce.Request) (quiesce.ThawResult, error) {
	held, err := w.Hold.Release(ctx, resumeScript)
	return quiesce.ThawResult{Held: held}, err
}

// Abort lets the servers go on, whoever stopped them.
func (w *Writer) Abort(ctx context.Context, _ quiesce.Request) error {
	w.turn = 0
	return w.Hold.ReleaseSurely(ctx, resumeScript)
}

// Document is what a restore point keeps of the servers.
type Document struct {
	Clusters []DocumentCluster `json:"clusters"`
}

// DocumentCluster is one server.
type DocumentCluster struct {
	DataDirectory    string   `json:"data_directory"`
	Version          string   `json:"version"`
	Port             int      `json:"port"`
	SocketDirectory  string   `json:"socket_directory"`
	SystemIdentifier string   `json:"system_identifier"`
	Timeline         string   `json:"timeline"`
	Standby          bool     `json:"standby"`
	WAL              string   `json:"wal_directory"`
	Tablespaces      []string `json:"tablespaces,omitempty"`
	// CheckpointLSN is where recovery begins at the earliest.
	CheckpointLSN string `json:"checkpoint_lsn"`
	// FreezeLSN: everything up to here is in the point. On a standby, what it had replayed.
	FreezeLSN string `json:"freeze_lsn"`
}

// PostSnapshot describes the servers.
func (w *Writer) PostSnapshot(context.Context, quiesce.Request) ([]byte, error) {
	if w.wal == nil {
		return nil, nil
	}
	var d Document
	for i, c := range w.clusters {
		f := w.facts[i]
		d.Clusters = append(d.Clusters, DocumentCluster{
			DataDirectory: c.data, Version: versionName(f.version), Port: c.port, SocketDirectory: c.socket,
			SystemIdentifier: f.system, Timeline: f.timeline, Standby: f.standby, WAL: c.wal, Tablespaces: c.spaces,
			CheckpointLSN: f.checkpoint, FreezeLSN: w.wal[c.pid],
		})
	}
	return json.Marshal(d)
}
