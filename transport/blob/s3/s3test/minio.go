package s3test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// StartMinIO starts MinIO as a second opinion: a process of its own, with one folder,
// over TLS. Its binary, which $LULL_MINIO names, takes some six minutes of processor
// time to build, so no test of `make test` asks for it:
//
//	GOBIN=$PWD/.cache/bin go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
//	LULL_MINIO=$PWD/.cache/bin/minio go test -tags minio ./transport/blob/s3 -run MinIO
//
// Of the options Plain and Users mean nothing here.
func StartMinIO(t testing.TB, o Options) *Server {
	t.Helper()
	binary := os.Getenv("LULL_MINIO")
	if binary == "" {
		t.Fatal("no MinIO to test with: build it as s3test.StartMinIO says, and set LULL_MINIO")
	}
	dir := t.TempDir()
	s := &Server{
		o: Options{Versions: o.Versions, Locks: o.Locks}, dir: dir, Bucket: bucket, Objects: filepath.Join(dir, "objects"),
		CredentialsFile: filepath.Join(dir, "credentials"), binary: binary, addr: freeAddr(t), log: &logBuffer{},
		healthPath: "/minio/health/ready",
	}
	s.cert = newCertificate(t, dir)
	s.CAFile, s.Endpoint = s.cert.caFile, "https://"+s.addr
	certs := filepath.Join(dir, "certs")
	for _, err := range []error{
		os.Mkdir(s.Objects, 0o700), os.Mkdir(certs, 0o700), writeCredentials(s.CredentialsFile, accessKey, secretKey),
		os.Link(s.cert.certFile, filepath.Join(certs, "public.crt")), os.Link(s.cert.keyFile, filepath.Join(certs, "private.key")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.cmd = exec.Command(binary, "server", "--quiet", "--address", s.addr, "--certs-dir", certs, s.Objects)
	s.cmd.Env = []string{"MINIO_ROOT_USER=" + accessKey, "MINIO_ROOT_PASSWORD=" + secretKey, "MINIO_BROWSER=off", "HOME=" + dir}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start MinIO: %v", err)
	}
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			t.Logf("MinIO said:\n%s", s.log)
		}
	})
	if err := s.ready(t.Context()); err != nil {
		t.Fatalf("MinIO does not come up: %v; it said:\n%s", err, s.log)
	}
	s.makeBucket(t)
	return s
}
