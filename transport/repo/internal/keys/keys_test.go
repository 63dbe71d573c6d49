package keys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

var cheap = Cost{Time: 1, Memory: 64, Threads: 1}

func ring(t testing.TB, m Master, id Repository) *Ring {
	t.Helper()
	r, err := m.Ring(id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What derives from a master secret is part of the format.
func TestDerivationIsGolden(t *testing.T) {
	var m Master
	var id Repository
	for i := range m {
		m[i] = byte(i)
	}
	for i := range id {
		id[i] = byte(0xf0 + i)
	}
	r := ring(t, m, id)
	vm := r.VM("lab/web")
	public := digest(r.PublicKey())
	got := map[string]string{
		"data name of abc":     r.Data.Name([]byte("abc")).String(),
		"node name of abc":     r.Nodes.Name([]byte("abc")).String(),
		"index key":            hex.EncodeToString(r.index),
		"writers' key":         hex.EncodeToString(r.writers),
		"VM lab/web":           hex.EncodeToString(vm[:]),
		"BLAKE3 of public key": public,
	}
	if diff := cmp.Diff(golden(), got); diff != "" {
		t.Errorf("keys of old repositories would be lost: %s", diff)
	}
}

func TestSealedIndex(t *testing.T) {
	r := ring(t, Master{1}, Repository{1})
	sealed, err := r.SealIndex(nil, wire.Index, []byte("entries"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := r.OpenIndex(wire.Index, sealed); err != nil || string(plain) != "entries" {
		t.Errorf("%q, %v", plain, err)
	}
	again, _ := r.SealIndex(nil, wire.Index, []byte("entries"))
	if bytes.Equal(again, sealed) {
		t.Error("sealed twice alike")
	}
	for name, open := range map[string]func() error{
		"other kind":       func() error { _, err := r.OpenIndex(wire.DataPack, sealed); return err },
		"other repository": func() error { _, err := ring(t, Master{1}, Repository{2}).OpenIndex(wire.Index, sealed); return err },
		"other master":     func() error { _, err := ring(t, Master{2}, Repository{1}).OpenIndex(wire.Index, sealed); return err },
		"short":            func() error { _, err := r.OpenIndex(wire.Index, sealed[:40]); return err },
	} {
		if err := open(); !errors.Is(err, wire.ErrDamaged) {
			t.Errorf("%s: %v, want %v", name, err, wire.ErrDamaged)
		}
	}
}

func TestSealedPoint(t *testing.T) {
	r := ring(t, Master{1}, Repository{1})
	sealed, err := r.SealPoint("points/a", []byte("manifest"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := r.OpenPoint("points/a", sealed); err != nil || string(plain) != "manifest" {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := r.OpenPoint("points/b", sealed); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("under another name: %v", err)
	}
	newer := bytes.Clone(sealed)
	newer[5]++
	if _, err := r.OpenPoint("points/a", newer); !errors.Is(err, wire.ErrNewer) {
		t.Errorf("newer version: %v", err)
	}
}

func TestPackKey(t *testing.T) {
	r := ring(t, Master{1}, Repository{1})
	header, key, err := r.NewPackKey(nil, wire.NodePack)
	if err != nil || len(header) != PackHeaderSize {
		t.Fatal(len(header), err)
	}
	sealed := key.Seal(nil, 5000, []byte("segment"))
	again, kind, err := r.OpenPackKey(header)
	if err != nil || kind != wire.NodePack {
		t.Fatal(kind, err)
	}
	if plain, err := again.Open(nil, 5000, sealed); err != nil || string(plain) != "segment" {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := again.Open(nil, 5001, sealed); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("at another offset: %v", err)
	}
	header[4] = byte(wire.DataPack)
	if _, _, err := r.OpenPackKey(header); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("as another kind: %v", err)
	}
}

func TestKeyFile(t *testing.T) {
	config := []byte("config")
	f, err := Lock(Master{9}, config, []byte("secret"), cheap)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := Unlock(f, config, []byte("secret")); err != nil || m != (Master{9}) {
		t.Errorf("%v", err)
	}
	if _, err := Unlock(f, config, []byte("Secret")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := Unlock(f, []byte("other"), []byte("secret")); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("other config: %v", err)
	}
	if bytes.Contains(f, []byte("secret")) {
		t.Error("the passphrase is in the file")
	}
}

// A store cannot make its reader spend memory or time without bounds.
func TestKeyFileCostIsBounded(t *testing.T) {
	f, err := Lock(Master{9}, nil, []byte("secret"), cheap)
	if err != nil {
		t.Fatal(err)
	}
	for before, after := range map[string]string{
		`"memory_kib": 64`: `"memory_kib": 104857600`,
		`"time": 1`:        `"time": 4000000000`,
		`"threads": 1`:     `"threads": 0`,
	} {
		evil := strings.Replace(string(f), before, after, 1)
		if evil == string(f) {
			t.Fatalf("no %s in %s", before, f)
		}
		if _, err := Unlock([]byte(evil), nil, []byte("secret")); !errors.Is(err, wire.ErrDamaged) {
			t.Errorf("%s: %v", after, err)
		}
	}
}

func FuzzKeyFile(f *testing.F) {
	good, err := Lock(Master{9}, nil, []byte("secret"), cheap)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"lull":"key","version":1,"memory_kib":4294967295}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := parseFile(b)
		if err == nil && file.check() != nil {
			t.Errorf("cost %+v let through", file.Cost)
		}
		if err != nil && !errors.Is(err, wire.ErrDamaged) && !errors.Is(err, wire.ErrNewer) {
			t.Error(err)
		}
	})
}

// golden was computed once, for version 1, and is never changed.
func golden() map[string]string {
	return map[string]string{
		"BLAKE3 of public key": "b440ce0330095db3b9d3a48bee715c42b440e8e260846fcc467ac45a51c4cfd5",
		"VM lab/web":           "92b0047ffe98b39fdd2693e3a02b0da7",
		"data name of abc":     "d9921cb77300eaa6eaf64723bd7332c1b4fdaf36793b810a8a48e3bdcd8e9acb",
		"index key":            "1b487f27de1b34b7f83adb90a77159e2a801d170688f7c745f2054929290ff60",
		"writers' key":         "8902d416e361cd520ee1b94c45fdd0445e972cde5c3ac4d0884f94e935cb9348",
		"node name of abc":     "f79d55f9f94fe4e21d6cb108c19d955c62677ca81a37fedc2ea636aeaea86b2f",
	}
}

// Who has the public key only cannot make what a repository takes for its own.
func TestStoreCannotForge(t *testing.T) {
	r := ring(t, Master{1}, Repository{1})
	forger := &Ring{repository: r.repository, public: r.public, writers: make([]byte, 32)}
	point, err := forger.SealPoint("points/a", []byte("forged"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.OpenPoint("points/a", point); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("point: %v, want %v", err, wire.ErrDamaged)
	}
	header, _, err := forger.NewPackKey(nil, wire.DataPack)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.OpenPackKey(header); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("pack: %v, want %v", err, wire.ErrDamaged)
	}
}
