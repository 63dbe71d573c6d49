package qemu

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// variablesOf is a plan with the firmware's variables in a file, and that file.
func variablesOf(t *testing.T, content []byte) (snapshot.Plan, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nvram.fd")
	put(t, path, content)
	return snapshot.Plan{VM: "web", Run: "run", Files: []snapshot.File{{Role: snapshot.RoleNVRAM, Path: path}}}, path
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Variables that stand still over Take are those of the instant, whatever the guest
// writes later.
func TestVariablesOfTheInstant(t *testing.T) {
	was := bytes.Repeat([]byte("variables"), 60_000)
	p, path := variablesOf(t, was)
	h := NewHost(nil, Options{})
	v := holdVariables(p)
	v.unmoved()
	h.keep(p, v)
	put(t, path, []byte("later"))
	f := &frozen{host: h, plan: p}
	if b, err := f.File(t.Context(), path); err != nil || !bytes.Equal(b, was) {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	h.keep(p, nil)
	if b, err := f.File(t.Context(), path); !errors.Is(err, snapshot.ErrInexact) || string(b) != "later" {
		t.Errorf("got %q, %v, want what is there now and ErrInexact", b, err)
	}
}

// Variables that change during Take come as they are, and say so.
func TestVariablesThatMove(t *testing.T) {
	was := bytes.Repeat([]byte("variables"), 60_000)
	for name, now := range map[string][]byte{
		"last byte": append(bytes.Clone(was[:len(was)-1]), '!'),
		"longer":    append(bytes.Clone(was), '!'),
		"shorter":   was[:len(was)-1],
		"empty":     nil,
	} {
		t.Run(name, func(t *testing.T) {
			p, path := variablesOf(t, was)
			h := NewHost(nil, Options{})
			v := holdVariables(p)
			put(t, path, now)
			v.unmoved()
			h.keep(p, v)
			b, err := (&frozen{host: h, plan: p}).File(t.Context(), path)
			if !errors.Is(err, snapshot.ErrInexact) || !bytes.Equal(b, now) {
				t.Errorf("got %d bytes, %v", len(b), err)
			}
		})
	}
}

func TestVariablesThatAreGone(t *testing.T) {
	p, path := variablesOf(t, []byte("variables"))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	h := NewHost(nil, Options{})
	v := holdVariables(p)
	v.unmoved()
	h.keep(p, v)
	if b, err := (&frozen{host: h, plan: p}).File(t.Context(), path); b != nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %q, %v", b, err)
	}
}
