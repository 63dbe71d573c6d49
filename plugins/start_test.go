package plugins_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

func TestStartFails(t *testing.T) {
	tests := map[string]string{
		"garbage":        `it printed "Welcome to this plugin!`,
		"unending-line":  "no handshake",
		"no-tls":         "does not speak mutual TLS",
		"tcp":            "it must be a socket in",
		"exit":           `exit status 1; it said "no configuration"`,
		"panic connect":  "panicked: odd writer",
		"die connect":    "signal: killed",
		"nobody-listens": "cert",
	}
	for mode, want := range tests {
		t.Run(mode, func(t *testing.T) {
			t.Cleanup(func() { goleak.VerifyNone(t) })
			s := spec(mode)
			s.RuntimeDir = runtimeDir(t)
			_, err := plugins.Start(t.Context(), s, quiescetest.NewGuest(), discard())
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one with %q", err, want)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	for _, mode := range []string{"silent", "hang connect", "stop connect"} {
		t.Run(mode, func(t *testing.T) {
			t.Cleanup(func() { goleak.VerifyNone(t) })
			untilSeen(t, time.Second, func(seen string, limit time.Duration) {
				s := spec(mode)
				s.RuntimeDir = runtimeDir(t)
				s.Env = append(s.Env, seen)
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				if _, err := plugins.Start(ctx, s, quiescetest.NewGuest(), discard()); err == nil {
					t.Error("no error")
				}
			})
		})
	}
}

func TestChecksum(t *testing.T) {
	data, err := os.ReadFile(self())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	s := spec("well")
	s.SHA256 = hex.EncodeToString(sum[:])
	started(t, s, nil)

	s.RuntimeDir = runtimeDir(t)
	s.SHA256 = strings.Repeat("00", 32)
	if _, err := plugins.Start(t.Context(), s, nil, discard()); !errors.Is(err, plugins.ErrUntrusted) {
		t.Errorf("error %v, want ErrUntrusted", err)
	}
}

func TestBadSpec(t *testing.T) {
	tests := map[string]plugins.Spec{
		"no name":       {Path: "/bin/true"},
		"relative path": {Name: "x", Path: "true"},
		"no program":    {Name: "x", Path: "/does/not/exist"},
		"short sum":     {Name: "x", Path: "/bin/true", SHA256: "1234"},
		"unknown grant": {Name: "x", Path: "/bin/true", Grants: []plugins.Grant{"everything"}},
		"long folder":   {Name: "x", Path: "/bin/true", RuntimeDir: filepath.Join(t.TempDir(), strings.Repeat("d", 60))},
	}
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			if s.RuntimeDir == "" {
				s.RuntimeDir = runtimeDir(t)
			} else if err := os.Mkdir(s.RuntimeDir, 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := plugins.Start(t.Context(), s, nil, discard()); err == nil {
				t.Error("no error")
			}
			left, err := os.ReadDir(s.RuntimeDir)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// Nobody without this start's certificate gets an answer, even with access to
// the socket.
func TestMutualTLS(t *testing.T) {
	s := spec("well")
	s.RuntimeDir = runtimeDir(t)
	p, err := plugins.Start(t.Context(), s, quiescetest.NewGuest(), discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	sockets, err := filepath.Glob(filepath.Join(s.RuntimeDir, "*", "*", "plugin*"))
	if err != nil || len(sockets) != 2 {
		t.Fatalf("sockets %q, %v; want the plugin's and the guest service's", sockets, err)
	}
	for _, socket := range sockets {
		for name, creds := range map[string]credentials.TransportCredentials{
			"plain": insecure.NewCredentials(), "TLS": credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}),
		} {
			conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(creds))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, writer := proto.NewWriterClient(conn).Identify(ctx, &proto.IdentifyRequest{})
			_, guest := proto.NewGuestClient(conn).Info(ctx, &proto.InfoRequest{})
			if writer == nil || guest == nil || ctx.Err() != nil {
				t.Errorf("%s: a stranger was answered: %v, %v", name, writer, guest)
			}
			cancel()
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestHostDies(t *testing.T) {
	dir := runtimeDir(t)
	host := exec.CommandContext(t.Context(), self())
	host.Env = append(os.Environ(), modeEnv+"=host", "TMPDIR="+dir)
	stdin, err := host.StdinPipe() // open, so that the host waits
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := host.Wait(); err == nil {
		t.Error("the host was not killed")
	}
	eventually(t, "the plugin dies with its host", func() bool { return gone(pid) })

	// The folder of the dead host goes at the next start.
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Fatalf("in the folder for sockets: %v, %v; want what the host left", left, err)
	}
	s := spec("well")
	s.RuntimeDir = dir
	p, err := plugins.Start(t.Context(), s, nil, discard())
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the folder for sockets: %v, %v; want the new plugin's alone", left, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// gone also holds for a zombie: nobody may be there to reap an orphan in a
// container.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(after, []byte("Z"))
}
