package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/blobtest"
	"github.com/lull-backup/lull/transport/blob/retry"
	"github.com/lull-backup/lull/transport/blob/s3/s3test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func configOf(s *s3test.Server) Config {
	return Config{Endpoint: s.Endpoint, Bucket: s.Bucket, CAFile: s.CAFile, CredentialsFile: s.CredentialsFile}
}

func openStore(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStore(t *testing.T) {
	server := s3test.Start(t)
	var n atomic.Int32
	blobtest.Run(t, func(t *testing.T) blob.Store {
		c := configOf(server)
		c.Prefix = fmt.Sprintf("kit/%d", n.Add(1))
		return openStore(t, c)
	})
}

func TestStoreUnderRetry(t *testing.T) {
	server := s3test.Start(t)
	var n atomic.Int32
	blobtest.Run(t, func(t *testing.T) blob.Store {
		c := configOf(server)
		c.Prefix = fmt.Sprintf("kit/%d", n.Add(1))
		s := openStore(t, c)
		return struct {
			blob.Store
			io.Closer
		}{retry.New(s, retry.Options{}), s}
	})
}

func TestPlainHTTP(t *testing.T) {
	s := openStore(t, configOf(s3test.StartPlain(t)))
	data := bytes.Repeat([]byte("plain"), 1<<20)
	if err := s.Create(t.Context(), "a/b", data); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "a/b", data); !errors.Is(err, blob.ErrExists) {
		t.Error(err)
	}
	if got, err := s.Read(t.Context(), "a/b", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestPrefixesAreApart(t *testing.T) {
	server := s3test.Start(t)
	a, b := configOf(server), configOf(server)
	a.Prefix, b.Prefix = "one/", "one-more"
	sa, sb := openStore(t, a), openStore(t, b)
	for _, s := range []*Store{sa, sb} {
		if err := s.Create(t.Context(), "x", []byte(s.prefix)); err != nil {
			t.Fatal(err)
		}
	}
	var found []string
	if err := sa.List(t.Context(), "", func(i blob.Info) error { found = append(found, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	got, err := sa.Read(t.Context(), "x", 0, -1)
	if err != nil || string(got) != "one/" || len(found) != 1 {
		t.Errorf("%q, %v, listed %v", got, err, found)
	}
}

// all does every kind of operation.
func all(ctx context.Context, s blob.Store) map[string]error {
	_, read := s.Read(ctx, "x", 0, 5)
	_, readNothing := s.Read(ctx, "x", 0, 0)
	_, stat := s.Stat(ctx, "x")
	return map[string]error{
		"create": s.Create(ctx, "x", []byte("data")), "read": read, "read nothing": readNothing, "stat": stat,
		"list":   s.List(ctx, "", func(blob.Info) error { return nil }),
		"delete": s.Delete(ctx, "x"),
	}
}

func wantAll(t *testing.T, s blob.Store, want error) {
	t.Helper()
	for op, err := range all(t.Context(), s) {
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", op, err, want)
			continue
		}
		var hint interface{ Hint() string }
		if !errors.As(err, &hint) || !strings.Contains(err.Error(), s.String()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: no hint or no store in %q", op, err)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: a secret in %q", op, err)
		}
	}
}

func TestWrongAccess(t *testing.T) {
	server := s3test.Start(t)
	file := filepath.Join(t.TempDir(), "credentials")
	good, err := os.ReadFile(server.CredentialsFile)
	if err != nil {
		t.Fatal(err)
	}
	for what, from := range map[string]string{"wrong secret": "only-for-tests", "unknown user": "lulltest"} {
		t.Run(what, func(t *testing.T) {
			bad := strings.Replace(string(good), from, "secret-and-wrong", 1)
			if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			c := configOf(server)
			c.CredentialsFile = file
			wantAll(t, openStore(t, c), blob.ErrDenied)
		})
	}
	t.Run("no bucket", func(t *testing.T) {
		c := configOf(server)
		c.Bucket = "another-bucket"
		wantAll(t, openStore(t, c), blob.ErrNoBucket)
	})
	t.Run("unknown authority", func(t *testing.T) {
		c := configOf(server)
		c.CAFile = ""
		s := openStore(t, c)
		wantAll(t, s, blob.ErrUntrusted)
		wantAll(t, s, blob.ErrUnreachable)
	})
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c := configOf(server)
		c.Endpoint = "https://" + l.Addr().String()
		_ = l.Close()
		wantAll(t, openStore(t, c), blob.ErrUnreachable)
	})
	t.Run("no such host", func(t *testing.T) {
		c := configOf(server)
		c.Endpoint = "https://s3.invalid"
		wantAll(t, openStore(t, c), blob.ErrUnreachable)
	})
}

func TestBadConfig(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "y")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := Config{Endpoint: "https://s3.example.net", Bucket: "vms", Prefix: "a/b"}
	if s := openStore(t, good); s.String() != "https://s3.example.net/vms/a/b/" {
		t.Error(s)
	}
	for what, change := range map[string]func(*Config){
		"no endpoint":     func(c *Config) { c.Endpoint = "" },
		"no scheme":       func(c *Config) { c.Endpoint = "s3.example.net" },
		"odd scheme":      func(c *Config) { c.Endpoint = "ftp://s3.example.net" },
		"path":            func(c *Config) { c.Endpoint += "/bucket" },
		"user":            func(c *Config) { c.Endpoint = "https://key:hidden@s3.example.net" },
		"broken":          func(c *Config) { c.Endpoint = "https://hidden:%%" },
		"no bucket":       func(c *Config) { c.Bucket = "" },
		"odd bucket":      func(c *Config) { c.Bucket = "../x" },
		"odd prefix":      func(c *Config) { c.Prefix = "a/../b" },
		"no CA file":      func(c *Config) { c.CAFile = empty + "-not" },
		"empty CA file":   func(c *Config) { c.CAFile = empty },
		"no credentials":  func(c *Config) { c.CredentialsFile = empty + "-not" },
		"odd credentials": func(c *Config) { c.CredentialsFile = empty },
	} {
		c := good
		change(&c)
		if _, err := Open(t.Context(), c); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestLostReplyOfACreate(t *testing.T) {
	server := s3test.Start(t)
	proxy := server.Proxy(t)
	c := configOf(server)
	c.Endpoint = proxy.Endpoint
	data := bytes.Repeat([]byte{1}, 1<<20)
	plain := openStore(t, c)
	lost := proxy.LoseReplyAfter(int64(len(data)))
	if err := plain.Create(t.Context(), "one", data); err != nil {
		t.Fatalf("a creation does not find its own object: %v", err)
	}
	<-lost
	if err := plain.Create(t.Context(), "one", data); !errors.Is(err, blob.ErrExists) {
		t.Fatalf("another creation: %v", err)
	}
}

// The reply is lost and the store is away at once: only a later try can find out.
func TestLostReplyBeforeAnOutage(t *testing.T) {
	server := s3test.Start(t)
	proxy := server.Proxy(t)
	c := configOf(server)
	c.Endpoint = proxy.Endpoint
	plain := openStore(t, c)
	s := retry.New(plain, retry.Options{Cap: time.Second})
	if err := s.Create(t.Context(), "first", nil); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{2}, 1<<20)
	lost := proxy.LoseReplyAfter(int64(len(data)))
	proxy.DownOnLoss()
	done := make(chan error, 1)
	go func() { done <- s.Create(t.Context(), "two", data) }()
	<-lost
	proxy.Up()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "two", data); !errors.Is(err, blob.ErrExists) {
		t.Fatalf("another creation: %v", err)
	}
}

func TestTakenNameOfALargeObject(t *testing.T) {
	s := openStore(t, configOf(s3test.Start(t)))
	data := bytes.Repeat([]byte("large"), 8<<20)
	if err := s.Create(t.Context(), "large", data); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := s.Create(t.Context(), "large", data); !errors.Is(err, blob.ErrExists) {
			t.Fatal(err)
		}
	}
}

func TestOutageInTheMiddleOfAnUpload(t *testing.T) {
	server := s3test.Start(t)
	proxy := server.Proxy(t)
	c := configOf(server)
	c.Endpoint = proxy.Endpoint
	s := retry.New(openStore(t, c), retry.Options{Cap: time.Second})
	if err := s.Create(t.Context(), "first", nil); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("abcd"), 4<<20)
	cut := proxy.CutAfter(5 << 20)
	done := make(chan error, 1)
	go func() { done <- s.Create(t.Context(), "packs/cut", data) }()
	<-cut
	server.Stop(t)
	away := time.NewTimer(3 * time.Second)
	select {
	case err := <-done:
		t.Fatalf("gave up while the store was away: %v", err)
	case <-away.C:
	}
	server.Restart(t)
	proxy.Up()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(t.Context(), "packs/cut", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestSilentNetworkIsAnError(t *testing.T) {
	server := s3test.Start(t)
	proxy := server.Proxy(t)
	c := configOf(server)
	c.Endpoint = proxy.Endpoint
	s := openStore(t, c)
	s.stall = 300 * time.Millisecond
	if err := s.Create(t.Context(), "first", nil); err != nil {
		t.Fatal(err)
	}
	proxy.Hold()
	if err := s.Create(t.Context(), "second", make([]byte, 64<<20)); !errors.Is(err, blob.ErrUnreachable) {
		t.Fatal(err)
	}
	proxy.Up()
	if err := s.Create(t.Context(), "second", []byte("2")); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedUploadIsRefused(t *testing.T) {
	s := openStore(t, configOf(s3test.StartPlain(t)))
	// What the server is told of the data is not what arrives.
	s.sum = func([]byte) string { return checksum([]byte("other data")) }
	if err := s.Create(t.Context(), "damaged", []byte("data")); err == nil || blob.Permanent(err) {
		t.Errorf("%v, want an error that may pass", err)
	}
	if _, err := s.Stat(t.Context(), "damaged"); !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
}

func BenchmarkCreate(b *testing.B) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 2<<20)
	for name, start := range map[string]func(testing.TB) *s3test.Server{"https": s3test.Start, "http": s3test.StartPlain} {
		b.Run(name, func(b *testing.B) {
			s := openStore(b, configOf(start(b)))
			b.SetBytes(int64(len(data)))
			n := 0
			for b.Loop() {
				n++
				if err := s.Create(b.Context(), fmt.Sprint("b/", n), data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
