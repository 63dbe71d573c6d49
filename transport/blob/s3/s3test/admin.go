package s3test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// makeBucket makes the bucket as the options say.
func (s *Server) makeBucket(t testing.TB) {
	t.Helper()
	c := s.Admin(t)
	if err := c.MakeBucket(t.Context(), s.Bucket, minio.MakeBucketOptions{ObjectLocking: s.o.Locks}); err != nil {
		t.Fatalf("make bucket: %v", err)
	}
	if s.o.Versions && !s.o.Locks {
		if err := c.EnableVersioning(t.Context(), s.Bucket); err != nil {
			t.Fatalf("make bucket with versions: %v", err)
		}
	}
}

// Admin is a client that may do everything, for what an administrator does, or a
// thief.
func (s *Server) Admin(t testing.TB) *minio.Client {
	t.Helper()
	return s.Client(t, accessKey, secretKey)
}

// Client is a client of a user's.
func (s *Server) Client(t testing.TB, access, secret string) *minio.Client {
	t.Helper()
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: s.cert.config()}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(access, secret, ""), Secure: !s.o.Plain, Transport: transport, Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// DefaultRetention makes the bucket lock every new object for some days.
func (s *Server) DefaultRetention(t testing.TB, mode minio.RetentionMode, days uint) {
	t.Helper()
	unit := minio.Days
	if err := s.Admin(t).SetObjectLockConfig(t.Context(), s.Bucket, &mode, &days, &unit); err != nil {
		t.Fatal(err)
	}
}

// AddUser makes a user without any right, and returns a credentials file for it. What
// it may do is for SetPolicy to say.
func (s *Server) AddUser(t testing.TB, name string) (credentialsFile string) {
	t.Helper()
	secret := "secret-of-" + name
	cmd := exec.Command(s.binary, "admin", "--endpoint-url", s.Endpoint, "--access", accessKey, "--secret", secretKey,
		"--allow-insecure", "create-user", "--access", name, "--secret", secret, "--role", "user")
	cmd.Env = []string{"HOME=" + s.dir}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("create user %s: %v\n%s", name, err, out)
	}
	file := filepath.Join(s.dir, "credentials-"+name)
	if err := writeCredentials(file, name, secret); err != nil {
		t.Fatal(err)
	}
	return file
}

// SetPolicy sets the bucket's policy, and waits until the server goes by it. The server
// keeps it in an extended attribute, of 4 KiB at most on most file systems.
func (s *Server) SetPolicy(t testing.TB, policy string) {
	t.Helper()
	c := s.Admin(t)
	if err := c.SetBucketPolicy(t.Context(), s.Bucket, policy); err != nil {
		t.Fatalf("set policy: %v\n%s", err, policy)
	}
	deadline := time.NewTimer(startLimit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if got, err := c.GetBucketPolicy(t.Context(), s.Bucket); err == nil && got != "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("the server does not take the policy")
		}
	}
}

func writeCredentials(file, access, secret string) error {
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", access, secret)
	return os.WriteFile(file, []byte(text), 0o600)
}
