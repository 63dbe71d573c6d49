package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// overS3 is what A's first backup takes into a directory and into S3, in turns.
type overS3 struct {
	dir, bucket []usage
	server      []float64 // processor seconds of the server for each backup into the bucket
}

// s3 measures lull into an S3 server of its own on loopback, over TLS.
func (b *bench) s3(ctx context.Context, binary, server string, rounds int) (*overS3, error) {
	if _, err := exec.LookPath(server); err != nil {
		b.say("versitygw: not installed, S3 left out; packaging/setup.sh s3 builds it")
		return nil, nil
	}
	gw, err := startServer(ctx, server, filepath.Join(b.scratch, "s3"))
	if err != nil {
		return nil, fmt.Errorf("measure S3: %w", err)
	}
	defer gw.stop()
	o := &overS3{}
	for range max(rounds, 1) {
		dir, _, err := b.oneBackup(ctx, binary, nil)
		if err != nil {
			return nil, fmt.Errorf("measure S3: %w", err)
		}
		bucket, seconds, err := b.oneBackup(ctx, binary, gw)
		if err != nil {
			return nil, fmt.Errorf("measure S3: %w", err)
		}
		o.dir, o.bucket, o.server = append(o.dir, dir), append(o.bucket, bucket), append(o.server, seconds)
		b.say("%-28s directory %.1f s wall, %.1f s cpu; bucket %.1f s wall, %.1f s cpu, server %.1f s cpu", "lull over S3", dir.wall, dir.cpu, bucket.wall, bucket.cpu, seconds)
	}
	return o, nil
}

// oneBackup backs A up into a new repository, in the server's bucket or else in a
// folder.
func (b *bench) oneBackup(ctx context.Context, binary string, gw *gateway) (usage, float64, error) {
	p := lullProgram(binary, "default")
	at := place{dir: filepath.Join(b.scratch, "once")}
	at.repo = filepath.Join(at.dir, "repo")
	if err := os.MkdirAll(at.repo, 0o700); err != nil {
		return usage{}, 0, err
	}
	defer os.RemoveAll(at.dir)
	repository := dirRepository(at.repo)
	if gw != nil {
		repository = gw.repository()
		defer gw.empty()
	}
	if err := writeConfig(at, p.setting, repository); err != nil {
		return usage{}, 0, err
	}
	for _, s := range p.prepare(at) {
		if _, err := measure(ctx, s); err != nil {
			return usage{}, 0, err
		}
	}
	if err := warm(ctx, b.images[0].path); err != nil {
		return usage{}, 0, err
	}
	if b.settle != nil {
		b.settle()
	}
	before := gw.seconds()
	u, err := measure(ctx, p.backup(at, b.images[0]))
	return u, gw.seconds() - before, err
}

// gateway is a running versitygw.
type gateway struct {
	cmd                    *exec.Cmd
	objects, ca, addr, key string
}

const (
	bucketName = "lull-bench"
	accessKey  = "lullbench"
	secretKey  = "only-for-benchmarks-on-loopback"
)

func startServer(ctx context.Context, binary, dir string) (*gateway, error) {
	g := &gateway{objects: filepath.Join(dir, "objects"), ca: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "credentials")}
	credentials := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", accessKey, secretKey)
	if err := errors.Join(
		os.MkdirAll(filepath.Join(g.objects, bucketName), 0o700),
		os.WriteFile(g.key, []byte(credentials), 0o600),
	); err != nil {
		return nil, err
	}
	pool, err := writeCertificate(g.ca, filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	if g.addr, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	g.cmd = exec.CommandContext(ctx, binary, "--port", g.addr, "--health", "/healthz", "--keep-alive", "--quiet",
		"--cert", g.ca, "--key", filepath.Join(dir, "key.pem"), "posix", g.objects)
	g.cmd.Env = []string{"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey, "HOME=" + dir}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	if err := g.ready(ctx, pool); err != nil {
		g.stop()
		return nil, err
	}
	return g, nil
}

func (g *gateway) stop() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait() // its end is what was asked for
}

// ready waits until the server answers.
func (g *gateway) ready(ctx context.Context, pool *x509.CertPool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+g.addr+"/healthz", nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			return resp.Body.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for versitygw: %w", context.Cause(ctx))
		}
	}
}

func (g *gateway) repository() string {
	return fmt.Sprintf("    s3: {endpoint: %q, bucket: %s, ca_file: %q, credentials_file: %q}\n", "https://"+g.addr, bucketName, g.ca, g.key)
}

// empty removes all objects, past the server.
func (g *gateway) empty() {
	entries, err := os.ReadDir(filepath.Join(g.objects, bucketName))
	if err != nil {
		return // the work folder is removed in the end anyway
	}
	for _, e := range entries {
		_ = os.RemoveAll(filepath.Join(g.objects, bucketName, e.Name()))
	}
}

// seconds is the processor time that the server took so far; that of none is 0.
func (g *gateway) seconds() float64 {
	if g == nil {
		return 0
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(stat), ") ") // the name may have spaces in it
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // USER_HZ
}

func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// writeCertificate makes a certificate for loopback that signs itself.
func writeCertificate(certFile, keyFile string) (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lull benchmark"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool, errors.Join(
		os.WriteFile(certFile, cert, 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600),
	)
}
