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

// ring is that of a key with some roles.
func ring(t testing.TB, m Master, id Repository, roles ...Roles) *Ring {
	t.Helper()
	of := Certificate{Label: "test", Roles: Owner, Epoch: 1}
	if len(roles) > 0 {
		of.Roles = roles[0]
	}
	public, err := m.Public(id)
	if err != nil {
		t.Fatal(err)
	}
	s, c, err := m.NewKey(id, of)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Ring(id, public, c.Bytes())
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
	r, err := m.Ring1(id)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(golden(), derived(r)); diff != "" {
		t.Errorf("keys of repositories of format 1 would be lost: %s", diff)
	}
	r = ring(t, m, id, Backup)
	if diff := cmp.Diff(golden2(), derived(r)); diff != "" {
		t.Errorf("keys of repositories of format 2 would be lost: %s", diff)
	}
	if diff := cmp.Diff(derived(r), derived(ring(t, m, id))); diff != "" {
		t.Errorf("the owner has other keys: %s", diff)
	}
	public, err := m.Public(id)
	if err != nil {
		t.Fatal(err)
	}
	got := [3]string{digest(public.Data), digest(public.Meta), hex.EncodeToString(public.Root)}
	if diff := cmp.Diff(goldenPublic(), got); diff != "" {
		t.Errorf("public keys of format 2: %s", diff)
	}
}

// derived is what a ring derives from its secrets.
func derived(r *Ring) map[string]string {
	vm := r.VM("lab/web")
	public := digest(r.PublicKey1())
	return map[string]string{
		"data name of abc":     r.Data.Name([]byte("abc")).String(),
		"node name of abc":     r.Nodes.Name([]byte("abc")).String(),
		"index key":            hex.EncodeToString(r.index),
		"writers' key":         hex.EncodeToString(r.writers),
		"VM lab/web":           hex.EncodeToString(vm[:]),
		"BLAKE3 of public key": public,
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
	owner := ring(t, Master{1}, Repository{1})
	sealed, err := ring(t, Master{1}, Repository{1}, Backup).SealPoint("points/a", []byte("outline"), []byte("manifest"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := owner.ParsePoint("points/a", sealed)
	if err != nil || p.Signer.Label != "test" || p.Signer.Roles != Backup {
		t.Fatalf("%+v, %v", p, err)
	}
	if plain, err := owner.OpenPoint(p); err != nil || string(plain) != "manifest" {
		t.Errorf("%q, %v", plain, err)
	}
	if plain, err := owner.OpenOutline(p); err != nil || string(plain) != "outline" {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := owner.ParsePoint("points/b", sealed); !errors.Is(err, wire.ErrForged) {
		t.Errorf("under another name: %v", err)
	}
	newer := bytes.Clone(sealed)
	newer[5]++
	if _, err := owner.ParsePoint("points/a", newer); !errors.Is(err, wire.ErrNewer) {
		t.Errorf("newer version: %v", err)
	}
}

// Each role opens what it is for, and nothing else.
func TestRolesOpenWhatTheyAreFor(t *testing.T) {
	for roles, can := range map[Roles]struct{ read, maps bool }{
		Backup:            {false, false},
		Maintain:          {false, true},
		Restore:           {true, true},
		Owner:             {true, true},
		Backup | Restore:  {true, true},
		Backup | Maintain: {false, true},
	} {
		r := ring(t, Master{1}, Repository{1}, roles)
		if r.CanRead() != can.read || r.CanReadMaps() != can.maps {
			t.Errorf("%s: says that it reads %v, maps %v", roles, r.CanRead(), r.CanReadMaps())
		}
		want := func(what string, err error, may bool) {
			if may && err != nil || !may && !errors.Is(err, ErrRole) {
				t.Errorf("%s: %s: %v", roles, what, err)
			}
		}
		for kind, may := range map[wire.Kind]bool{wire.DataPack: can.read, wire.NodePack: can.maps} {
			header, _, err := ring(t, Master{1}, Repository{1}).NewPackKey(nil, kind)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = r.OpenPackKey(header)
			want("pack "+string(rune(kind)), err, may)
		}
		sealed, err := ring(t, Master{1}, Repository{1}).SealPoint("points/a", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.ParsePoint("points/a", sealed)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.OpenPoint(p)
		want("point", err, can.read)
		_, err = r.OpenOutline(p)
		want("outline", err, can.maps)
	}
}

func TestPackKey(t *testing.T) {
	r := ring(t, Master{1}, Repository{1})
	header, key, err := r.NewPackKey(nil, wire.NodePack)
	if err != nil || len(header) != r.PackHeaderSize() {
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

// lock makes the key file of a new key.
func lock(t testing.TB, roles Roles, config string) []byte {
	t.Helper()
	s, c, err := Master{9}.NewKey(Repository{1}, Certificate{Label: "test", Roles: roles, Epoch: 2})
	if err != nil {
		t.Fatal(err)
	}
	f, err := Lock(s, Repository{1}, c, []byte(config), []byte("secret"), cheap)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestKeyFile(t *testing.T) {
	config := []byte("config")
	f := lock(t, Owner, "config")
	if s, _, err := Unlock(f, config, []byte("secret")); err != nil || s.master != (Master{9}) {
		t.Errorf("%v", err)
	}
	if _, _, err := Unlock(f, config, []byte("Secret")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, _, err := Unlock(f, []byte("other"), []byte("secret")); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("other config: %v", err)
	}
	if bytes.Contains(f, []byte("secret")) {
		t.Error("the passphrase is in the file")
	}
}

// A key file holds the secrets of its roles and no others.
func TestKeyFileHoldsItsRoleOnly(t *testing.T) {
	d := Master{9}.from2(Repository{1})
	shared, data, meta := d.seed("shared"), d.epoch("data", 2), d.epoch("meta", 2)
	for roles, has := range map[Roles][4]bool{ // master, shared, data, meta
		Owner:            {true, false, false, false},
		Backup:           {false, true, false, false},
		Restore:          {false, true, true, true},
		Maintain:         {false, true, false, true},
		Backup | Restore: {false, true, true, true},
	} {
		s, certificate, err := Unlock(lock(t, roles, ""), nil, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		b := s.bundle()
		for i, secret := range [][]byte{bytes.Repeat([]byte{9}, 1), shared[:], data[:], meta[:]} {
			if i == 0 {
				m := Master{9}
				secret = m[:]
			}
			if bytes.Contains(b, secret) != has[i] {
				t.Errorf("%s: secret %d in the bundle: %v", roles, i, !has[i])
			}
		}
		public, err := Master{9}.Public(Repository{1})
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Ring(Repository{1}, public, certificate)
		if err != nil || r.Certificate().Roles != roles {
			t.Errorf("%s: %v", roles, err)
		}
	}
}

// A store cannot make its reader spend memory or time without bounds.
func TestKeyFileCostIsBounded(t *testing.T) {
	f := lock(t, Backup, "")
	for before, after := range map[string]string{
		`"memory_kib": 64`: `"memory_kib": 104857600`,
		`"time": 1`:        `"time": 4000000000`,
		`"threads": 1`:     `"threads": 0`,
	} {
		evil := strings.Replace(string(f), before, after, 1)
		if evil == string(f) {
			t.Fatalf("no %s in %s", before, f)
		}
		if _, _, err := Unlock([]byte(evil), nil, []byte("secret")); !errors.Is(err, wire.ErrDamaged) {
			t.Errorf("%s: %v", after, err)
		}
	}
}

func FuzzKeyFile(f *testing.F) {
	f.Add(lock(f, Restore, ""))
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

// golden2 was computed once, for version 2, and is never changed.
func golden2() map[string]string {
	return map[string]string{
		"BLAKE3 of public key": "d49c8f46ba9f6b66a0c504dc2effd5ff8dd9f62741ad94bf4b243d3405432df0",
		"VM lab/web":           "4c8fab89d07791d96f8438a508d038f4",
		"data name of abc":     "77d61895867f30805cb047706bc473b4d40322c53dce086dddc65be665f34692",
		"index key":            "e9b2bcecf93e1f6e7bcc7e0fc7551a60af92b1d56519deaf103148e102f899b1",
		"node name of abc":     "9d98472aa30f77a3524e4e62f73e3747a567a3dc8f3a03b5084d54061f1efe62",
		"writers' key":         "92d2b736b48d5cbadc75c552f5b761f3c5a5e1d54edf1435532b522dc252d5d5",
	}
}

// goldenPublic are BLAKE3 of the data and meta keys of epoch 1, and the root key.
func goldenPublic() [3]string {
	return [3]string{
		"d49c8f46ba9f6b66a0c504dc2effd5ff8dd9f62741ad94bf4b243d3405432df0",
		"374f93997576da2e996238e57ca55e591a044411e2dffbfd15f3ee3e13e8c4c1",
		"a63585909121cff82be7f23cc55f3ffe51c3b8320ee068a82ace2c69e6e20ec8",
	}
}

// Who has the public keys only cannot make what a repository takes for its own, even
// with a key to sign with.
func TestStoreCannotForge(t *testing.T) {
	r := ring(t, Master{1}, Repository{1})
	forger := ring(t, Master{1}, Repository{1})
	forger.writers = make([]byte, 32)
	sealed, err := forger.SealPoint("points/a", nil, []byte("forged"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.ParsePoint("points/a", sealed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.OpenPoint(p); !errors.Is(err, wire.ErrDamaged) {
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

// A signature is worth as much as its certificate, which the repository's root alone
// can give.
func TestSelfMadeCertificate(t *testing.T) {
	r, forger := ring(t, Master{1}, Repository{1}), ring(t, Master{2}, Repository{1})
	forger.index = r.index // as a backup key has it
	b, err := forger.SealDocument(wire.Tombstone, "forgotten/", []byte("all"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.OpenDocument(wire.Tombstone, "forgotten/", b); !errors.Is(err, wire.ErrForged) {
		t.Errorf("%v, want %v", err, wire.ErrForged)
	}
	b, err = r.SealDocument(wire.Tombstone, "forgotten/", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, c, err := r.OpenDocument(wire.Tombstone, "forgotten/", b); err != nil || string(plain) != "one" || c.Label != "test" {
		t.Errorf("%q, %v", plain, err)
	}
	if _, _, err := r.OpenDocument(wire.Tombstone, "holds/", b); !errors.Is(err, wire.ErrForged) {
		t.Errorf("in another folder: %v, want %v", err, wire.ErrForged)
	}
}

// Nothing that a backup key has, or that can be derived of it in any way that this package
// derives, is a key that opens.
func TestBackupKeyDerivesNothingThatOpens(t *testing.T) {
	id, m := Repository{1}, Master{9}
	s, _, err := Unlock(lock(t, Backup, ""), nil, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := m.Public(id)
	if err != nil {
		t.Fatal(err)
	}
	owner := ring(t, m, id)
	header, pack, err := owner.NewPackKey(nil, wire.DataPack)
	if err != nil {
		t.Fatal(err)
	}
	segment := pack.Seal(nil, 2000, []byte("segment"))
	candidates := []seed{s.host, s.shared, s.master}
	for _, secret := range []seed{s.host, s.shared, seed(make([]byte, seedSize))} {
		for _, format := range []wire.Format{1, 2} {
			d := deriver{format: format, secret: secret[:], salt: id}
			for _, purpose := range []string{
				"shared", "root", "data 1", "meta 1", "data 2", "meta 2", "read", "sign", "signer", "box",
				"data names", "node names", "vm names", "index", "writers", "cut", "pack", "point",
			} {
				candidates = append(candidates, d.seed(purpose))
			}
		}
	}
	r := ring(t, m, id, Backup)
	for _, c := range candidates {
		pair, err := keyPair(c)
		if err != nil {
			t.Fatal(err)
		}
		if k := pair.PublicKey().Bytes(); bytes.Equal(k, public.Data) || bytes.Equal(k, public.Meta) {
			t.Errorf("%x is a private key", c)
		}
		if _, err := r.openFrom(pair, "pack", header[:wire.PrefixSize+epochSize], header[wire.PrefixSize+epochSize:]); err == nil {
			t.Errorf("%x opens a pack's key", c)
		}
		direct, err := r.packKey(wire.DataPack, c[:])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := direct.Open(nil, 2000, segment); err == nil {
			t.Errorf("%x opens a segment", c)
		}
	}
}

// A rotation shuts out who was not granted it, and nobody else.
func TestRotation(t *testing.T) {
	id := Repository{1}
	owner := ring(t, Master{1}, id)
	readers := map[string]*Ring{
		"stays": ring(t, Master{1}, id, Restore), "maintains": ring(t, Master{1}, id, Maintain),
		"removed": ring(t, Master{1}, id, Restore), "backs up": ring(t, Master{1}, id, Backup),
	}
	var to []Recipient
	for name, r := range readers {
		if name != "removed" {
			to = append(to, Recipient{r.Certificate(), r.box.PublicKey().Bytes()})
		}
	}
	plain, err := owner.Rotate(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append([]*Ring{owner}, readers["stays"], readers["maintains"], readers["removed"], readers["backs up"]) {
		if err := r.AddEpoch(plain); err != nil {
			t.Fatal(err)
		}
	}
	for kind, may := range map[wire.Kind]map[string]bool{
		wire.DataPack: {"stays": true},
		wire.NodePack: {"stays": true, "maintains": true},
	} {
		header, _, err := readers["backs up"].NewPackKey(nil, kind)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := owner.OpenPackKey(header); err != nil {
			t.Errorf("owner: %v", err)
		}
		for name, r := range readers {
			if _, _, err := r.OpenPackKey(header); may[name] && err != nil || !may[name] && !errors.Is(err, ErrRole) {
				t.Errorf("%s opens %q: %v", name, rune(kind), err)
			}
		}
	}
	if err := owner.AddEpoch(plain); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("the same epoch again: %v", err)
	}
}

func FuzzCertificate(f *testing.F) {
	r := ring(f, Master{1}, Repository{1})
	f.Add(r.Certificate().Bytes())
	f.Add([]byte("{}\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := r.ParseCertificate(b); err != nil && !errors.Is(err, wire.ErrDamaged) && !errors.Is(err, wire.ErrForged) {
			t.Error(err)
		}
		labelOf(b)
	})
}

func FuzzBundle(f *testing.F) {
	for _, roles := range []Roles{Owner, Backup, Restore, Maintain} {
		s, _, err := Master{9}.NewKey(Repository{1}, Certificate{Label: "test", Roles: roles, Epoch: 2})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s.bundle())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseBundle(b)
		if err == nil && !bytes.Equal(s.bundle(), b) {
			t.Error("another bundle")
		}
		if err != nil && !errors.Is(err, wire.ErrDamaged) && !errors.Is(err, wire.ErrNewer) {
			t.Error(err)
		}
	})
}

func FuzzPoint(f *testing.F) {
	r := ring(f, Master{1}, Repository{1})
	sealed, err := r.SealPoint("points/a", []byte("outline"), []byte("manifest"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := r.ParsePoint("points/a", b)
		if err != nil && !errors.Is(err, wire.ErrDamaged) && !errors.Is(err, wire.ErrNewer) && !errors.Is(err, wire.ErrForged) {
			t.Error(err)
		}
	})
}
