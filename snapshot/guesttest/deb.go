package guesttest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// findDeb returns the one package file that matches pattern in dir.
func findDeb(dir, pattern string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", pattern, err)
	}
	if len(found) == 0 {
		return "", fmt.Errorf("no %s in %s: run packaging/setup.sh guest, which downloads it", pattern, dir)
	}
	return found[len(found)-1], nil
}

// unpack reads the regular files of a Debian package that want accepts. Nothing
// is installed and nothing is written.
func unpack(ctx context.Context, deb string, want func(name string) bool) (map[string][]byte, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", deb, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", deb, err)
	}
	files, readErr := readTar(out, want)
	_, drainErr := io.Copy(io.Discard, out)
	if err := errors.Join(readErr, drainErr, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("unpack %s: %w: %s", deb, err, stderr.Bytes())
	}
	return files, nil
}

func readTar(r io.Reader, want func(name string) bool) (map[string][]byte, error) {
	files := make(map[string][]byte)
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if h.Typeflag != tar.TypeReg || !want(name) {
			continue
		}
		if files[name], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
}
