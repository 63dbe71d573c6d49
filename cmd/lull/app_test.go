package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/transport/blob/s3/s3test"
)

// bench is lull in this process, in a folder of its own.
type bench struct {
	t   *testing.T
	dir string
	app App
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	env := map[string]string{
		"STATE_DIRECTORY": filepath.Join(dir, "state"), "CACHE_DIRECTORY": filepath.Join(dir, "cache"),
		"LULL_PASSPHRASE": "correct-horse",
	}
	return &bench{t: t, dir: dir, app: App{Env: func(k string) string { return env[k] }, Version: "test"}}
}

// path is a file of the bench.
func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) write(name, content string) {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// lull runs a command line and returns what it wrote; another exit code than want
// fails the test.
func (b *bench) lull(want int, args ...string) (stdout, stderr string) {
	b.t.Helper()
	return b.lullCtx(b.t.Context(), want, args...)
}

func (b *bench) lullCtx(ctx context.Context, want int, args ...string) (stdout, stderr string) {
	b.t.Helper()
	var out, errs bytes.Buffer
	app := b.app
	app.Stdin, app.Stdout, app.Stderr = strings.NewReader(""), &out, &errs
	if got := app.Run(ctx, args); got != want {
		b.t.Fatalf("lull %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, want, &out, &errs)
	}
	return out.String(), errs.String()
}

func (b *bench) sameFile(want, got string) {
	b.t.Helper()
	w, err := os.ReadFile(want)
	if err != nil {
		b.t.Fatal(err)
	}
	g, err := os.ReadFile(got)
	if err != nil {
		b.t.Fatal(err)
	}
	if !bytes.Equal(w, g) {
		b.t.Errorf("%s differs from %s", got, want)
	}
}

// TestStory holds the order of a backup's steps, which --json shows and the crash
// tests kill at.
func TestStory(t *testing.T) {
	b := newBench(t)
	if err := writeDisk(b.path("old.img"), 8<<20, 1); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var steps []string
	b.app.Observe = func(e agent.Event) {
		mu.Lock()
		defer mu.Unlock()
		if n := len(steps); n == 0 || steps[n-1] != string(e.Step) {
			steps = append(steps, string(e.Step))
		}
	}
	b.lull(0, "init", "--repo", b.path("repo"))
	b.lull(0, "backup", "--repo", b.path("repo"), "--image", b.path("old.img"))
	want := strings.Fields("started planned journaled prepared taken reading read merging merged committed forgotten done")
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("steps differ (-want +got):\n%s", diff)
	}
}

// TestInterrupted: a context that has ended begins nothing.
func TestInterrupted(t *testing.T) {
	b := newBench(t)
	b.write("old.img", "not much of a disk")
	b.lull(0, "init", "--repo", b.path("repo"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, stderr := b.lullCtx(ctx, exitFailed, "backup", "--repo", b.path("repo"), "--image", b.path("old.img"), "--quiet")
	if want := "lull: back up old: not begun: interrupted; run it again\n"; stderr != want {
		t.Errorf("stderr is %q, want %q", stderr, want)
	}
}

// TestDeadMonitor: a socket that nobody listens on any more.
func TestDeadMonitor(t *testing.T) {
	b := newBench(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.path("web.qmp"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b.write("lull.yaml", fmt.Sprintf(`
agent: {state_dir: %[1]s/state, cache_dir: %[1]s/cache, socket: %[1]s/lull.sock}
repositories:
  main: {dir: %[1]s/repo}
hosts:
  lab: {qemu: {vms: [{name: web, qmp: %[1]s/web.qmp}]}}
groups:
  nightly: {vms: ["*"], repository: main, schedule: "@daily", keep: {last: 1}}
`, b.dir))
	b.lull(0, "init", "--config", b.path("lull.yaml"))
	stdout, _ := b.lull(0, "vms", "--config", b.path("lull.yaml"))
	if !strings.Contains(stdout, "lab/web  unreachable") {
		t.Errorf("the VM is not shown as unreachable:\n%s", stdout)
	}
	_, stderr := b.lull(exitFailed, "backup", "web", "--config", b.path("lull.yaml"), "--quiet")
	if strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, b.path("web.qmp")) {
		t.Errorf("stderr is not one line that names the socket:\n%s", stderr)
	}
}

// wrongCA is a certificate that vouches for no server.
func wrongCA(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(nil, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestS3 goes the whole way over a real S3 server, and then meets what a server
// can refuse.
func TestS3(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	b := newBench(t)
	if err := writeDisk(b.path("old.img"), 8<<20, 1); err != nil {
		t.Fatal(err)
	}
	b.write("wrong-credentials", "[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing-to-see\n")
	const s3 = "{endpoint: %q, bucket: %s, prefix: lull/, region: us-east-1, ca_file: %s, credentials_file: %s}"
	b.write("lull.yaml", fmt.Sprintf(`
agent: {state_dir: %[1]s/state, cache_dir: %[1]s/cache, socket: %[1]s/lull.sock}
repositories:
  main: {s3: `+s3+`}
  denied: {s3: `+s3+`}
  missing: {s3: `+s3+`}
  untrusted: {s3: `+s3+`}
  refused: {s3: `+s3+`}
hosts:
  cold: {images: {vms: [{name: old, disks: [{path: %[1]s/old.img, format: raw}]}]}}
groups:
  nightly: {vms: ["*"], repository: main, schedule: "@daily", keep: {last: 1}}
`, b.dir,
		server.Endpoint, server.Bucket, server.CAFile, server.CredentialsFile,
		server.Endpoint, server.Bucket, server.CAFile, b.path("wrong-credentials"),
		server.Endpoint, "no-such-bucket", server.CAFile, server.CredentialsFile,
		server.Endpoint, server.Bucket, wrongCA(t), server.CredentialsFile,
		"https://127.0.0.1:1", server.Bucket, server.CAFile, server.CredentialsFile))
	config := func(args ...string) []string { return append(args, "--config", b.path("lull.yaml")) }

	b.app.Patience = time.Second
	b.lull(0, config("init", "--repository", "main")...)
	b.lull(0, config("backup", "old")...)
	b.lull(0, config("check", "--all", "--repository", "main")...)
	b.lull(0, config("restore", "old", "--repository", "main", "--to", b.path("out"))...)
	b.sameFile(b.path("old.img"), b.path("out/old.img"))

	for repository, word := range map[string]string{"denied": "access denied", "missing": "no such bucket",
		"untrusted": "not trusted", "refused": "connection refused"} {
		_, stderr := b.lull(exitLocked, config("points", "--repository", repository, "--quiet")...)
		if strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, word) || strings.Contains(stderr, "nothing-to-see") {
			t.Errorf("stderr is not one line that says %q:\n%s", word, stderr)
		}
	}
	server.Stop(t)
	_, stderr := b.lull(exitLocked, config("backup", "old", "--quiet")...)
	if strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "unreachable") {
		t.Errorf("stderr is not one line that says unreachable:\n%s", stderr)
	}
}
