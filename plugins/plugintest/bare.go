package plugintest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lull-backup/lull/plugins/proto"
)

// maxLine bounds the line of a handshake, in bytes.
const maxLine = 16 << 10

// firstLine starts the bare program, without the host side of lull, and returns the
// first line that it prints; what it started is killed then. versions are those that
// are offered; nil: it is started by hand. The error is ctx's when it neither prints
// nor ends in time.
func firstLine(ctx context.Context, o Options, versions []int) (line string, err error) {
	dir, err := os.MkdirTemp("", "lull-verify-")
	if err != nil {
		return "", fmt.Errorf("make folder for sockets: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cmd := exec.Command(o.Path, o.Args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TMPDIR=" + dir}, o.Env...)
	if versions != nil {
		offer, err := offered(dir, versions)
		if err != nil {
			return "", err
		}
		cmd.Env = append(cmd.Env, offer...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start program: %w", err)
	}
	end := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	stop := context.AfterFunc(ctx, end)
	line, err = bufio.NewReader(io.LimitReader(out, maxLine)).ReadString('\n')
	if stop() {
		end()
	} else {
		err = context.Cause(ctx)
	}
	_ = cmd.Wait() // it was killed, or has ended by itself: both are well
	if errors.Is(err, io.EOF) {
		err = nil // it ended, or printed a line too long for a handshake
	}
	return strings.TrimSpace(line), err
}

// offered is the environment that lull gives a plugin.
func offered(dir string, versions []int) ([]string, error) {
	cert, err := certificate()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, v := range versions {
		list = append(list, strconv.Itoa(v))
	}
	return []string{
		proto.CookieKey + "=" + proto.CookieValue,
		"PLUGIN_MIN_PORT=10000", "PLUGIN_MAX_PORT=25000",
		"PLUGIN_PROTOCOL_VERSIONS=" + strings.Join(list, ","),
		"PLUGIN_UNIX_SOCKET_DIR=" + dir,
		"PLUGIN_CLIENT_CERT=" + cert,
	}, nil
}

// certificate is one of the kind that go-plugin makes for each start.
func certificate() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make certificate: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost", Organization: []string{"lull"}}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement | x509.KeyUsageCertSign,
		// A serial number must be there; nobody looks at it.
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", fmt.Errorf("make certificate: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}
