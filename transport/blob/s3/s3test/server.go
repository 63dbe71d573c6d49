package s3test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	startLimit = time.Minute // ample for a busy machine
)

// Server is a running versitygw with one bucket.
type Server struct {
	Endpoint        string // https://127.0.0.1:port
	Bucket          string
	CAFile          string
	CredentialsFile string // as ~/.aws/credentials
	Objects         string // the folder in which the bucket is a folder

	o      Options
	dir    string // of what is not the objects
	binary string
	addr   string
	cert   certificate
	cmd    *exec.Cmd
	log    *logBuffer

	healthPath string
}

const (
	bucket    = "lull-test"
	accessKey = "lulltest"
	secretKey = "only-for-tests-on-loopback"

	versionsFolder = "versions"
	usersFolder    = "users"
)

// Options are what a server has beyond objects. The zero value is a plain one.
type Options struct {
	Plain    bool // no TLS
	Versions bool // the bucket keeps older versions
	Locks    bool // objects can be locked, which needs versions and has them
	Users    bool // AddUser works
}

// Start starts a server with an empty bucket, and kills it when the test is over.
func Start(t testing.TB) *Server { return StartWith(t, Options{}) }

// StartPlain is Start without TLS.
func StartPlain(t testing.TB) *Server { return StartWith(t, Options{Plain: true}) }

// StartWith is Start of a server that has more.
func StartWith(t testing.TB, o Options) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{
		o: o, dir: dir, Bucket: bucket, Objects: filepath.Join(dir, "objects"), CredentialsFile: filepath.Join(dir, "credentials"),
		binary: find(t), addr: freeAddr(t), log: &logBuffer{},
		healthPath: "/healthz",
	}
	s.Endpoint = "http://" + s.addr
	if !o.Plain {
		s.cert = newCertificate(t, dir)
		s.CAFile, s.Endpoint = s.cert.caFile, "https://"+s.addr
	}
	if err := errors.Join(
		os.Mkdir(s.Objects, 0o700), os.Mkdir(filepath.Join(dir, versionsFolder), 0o700), os.Mkdir(filepath.Join(dir, usersFolder), 0o700),
		writeCredentials(s.CredentialsFile, accessKey, secretKey),
	); err != nil {
		t.Fatal(err)
	}
	s.Restart(t)
	s.makeBucket(t)
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			t.Logf("versitygw said:\n%s", s.log)
		}
	})
	return s
}

// Restart starts the server again, on the same port, with the same objects.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	args := []string{"--port", s.addr, "--health", s.healthPath, "--keep-alive", "--quiet"}
	if s.CAFile != "" {
		args = append(args, "--cert", s.cert.certFile, "--key", s.cert.keyFile)
	}
	if s.o.Users {
		args = append(args, "--iam-dir", filepath.Join(s.dir, usersFolder))
	}
	args = append(args, "posix")
	if s.o.Versions || s.o.Locks {
		args = append(args, "--versioning-dir", filepath.Join(s.dir, versionsFolder))
	}
	s.cmd = exec.Command(s.binary, append(args, s.Objects)...)
	s.cmd.Env = []string{"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey, "HOME=" + s.Objects}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start versitygw: %v", err)
	}
	if err := s.ready(t.Context()); err != nil {
		t.Fatalf("versitygw does not come up: %v; it said:\n%s", err, s.log)
	}
}

// Stop kills the server, if it runs. Connections to it break, new ones are refused.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("kill versitygw: %v", err)
	}
	_ = s.cmd.Wait() // its end is what was asked for
	s.cmd = nil
}

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: s.cert.config()}
	client := &http.Client{Transport: transport}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.ask(ctx, client)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func (s *Server) ask(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+s.healthPath, nil)
	if err != nil {
		return err
	}
	reply, err := client.Do(req)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return errors.New(reply.Status)
	}
	return nil
}

// find is the server's binary.
func find(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("LULL_VERSITYGW"); path != "" {
		return path
	}
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			continue
		}
		path := filepath.Join(dir, ".cache", "bin", "versitygw")
		if _, err := os.Stat(path); err == nil {
			return path
		}
		break
	}
	path, err := exec.LookPath("versitygw")
	if err != nil {
		t.Fatal("no S3 server to test with: run `make setup`, which builds versitygw into .cache/bin, or set LULL_VERSITYGW")
	}
	return path
}

// freeAddr is a loopback address that nothing listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// logBuffer is what the server said.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// certificate is one for 127.0.0.1 from an authority made for it alone.
type certificate struct {
	caFile, certFile, keyFile string
	pool                      *x509.CertPool
}

func (c certificate) config() *tls.Config {
	return &tls.Config{RootCAs: c.pool, MinVersion: tls.VersionTLS12}
}

// ProcessorTime is what the server has used of the processors until now; none of a nil
// server.
func (s *Server) ProcessorTime(t testing.TB) time.Duration {
	t.Helper()
	if s == nil || s.cmd == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ") // its name may hold anything
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime, proc(5)
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ is 100 everywhere
}
