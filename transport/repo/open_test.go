package repo_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

func TestOpenRefuses(t *testing.T) {
	made := mem.New()
	initRepo(t, made)
	for name, c := range map[string]struct {
		store      func() blob.Store
		passphrase string
		want       error
	}{
		"empty store": {func() blob.Store { return mem.New() }, string(passphrase), repo.ErrNoRepository},
		"passphrase":  {func() blob.Store { return made }, "wrong", repo.ErrPassphrase},
		"none":        {func() blob.Store { return made }, "", repo.ErrPassphrase},
		"newer config": {func() blob.Store {
			return replaced(made, "config", `"version": 2`, `"version": 3`)
		}, string(passphrase), repo.ErrVersion},
		"other config": {func() blob.Store {
			return replaced(made, "config", `"max": 65536`, `"max": 65537`)
		}, string(passphrase), repo.ErrVersion},
		"config of another repository": {func() blob.Store { return swapped(t, made) }, string(passphrase), repo.ErrCorrupt},
		"unreachable": {func() blob.Store {
			f := faults.New(made)
			f.Add(faults.Fault{Before: blob.ErrUnreachable})
			return f
		}, string(passphrase), blob.ErrUnreachable},
		"denied": {func() blob.Store {
			f := faults.New(made)
			f.Add(faults.Fault{Op: faults.List, Before: blob.ErrDenied})
			return f
		}, string(passphrase), blob.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := repo.Open(t.Context(), c.store(), repo.OpenOptions{Passphrase: []byte(c.passphrase)})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func replaced(from *mem.Store, name, before, after string) *mem.Store {
	store := from.Clone()
	store.Damage(name, func(b []byte) []byte { return bytes.Replace(b, []byte(before), []byte(after), 1) })
	return store
}

// swapped has the config object of another repository.
func swapped(t *testing.T, from *mem.Store) *mem.Store {
	other := mem.New()
	initRepo(t, other)
	conf, err := other.Read(t.Context(), "config", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	store := from.Clone()
	store.Damage("config", func([]byte) []byte { return conf })
	return store
}

func TestInitTwice(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	before := store.Names()
	_, err := repo.Init(t.Context(), store, repo.InitOptions{Passphrase: passphrase, Cost: cheap})
	if !errors.Is(err, repo.ErrExists) || len(store.Names()) != len(before) {
		t.Errorf("%v, %d objects", err, len(store.Names()))
	}
	f := faults.New(store) // the other one wins between our look and our write
	f.Add(faults.Fault{Op: faults.Stat, Before: blob.ErrNotFound})
	_, err = repo.Init(t.Context(), f, repo.InitOptions{Passphrase: passphrase, Cost: cheap})
	if !errors.Is(err, repo.ErrExists) || len(store.Names()) != len(before) {
		t.Errorf("%v, %d objects", err, len(store.Names()))
	}
	if _, err := repo.Init(t.Context(), mem.New(), repo.InitOptions{}); err == nil {
		t.Error("empty passphrase taken")
	}
}

func TestCrashedInitCanBeRepeated(t *testing.T) {
	store := mem.New()
	f := faults.New(store)
	f.CrashAfter(1)
	if _, err := repo.Init(t.Context(), f, repo.InitOptions{Passphrase: passphrase, Cost: cheap}); err == nil {
		t.Fatal("no crash")
	}
	initRepo(t, store)
	r := openRepo(t, store)
	wantClean(t, r)
	// The key file that belongs to nothing is in nobody's way.
	if _, err := r.AddKey(t.Context(), repo.NewKey{Label: "host", Roles: repo.RoleBackup, Passphrase: passphrase, Cost: cheap}); err != nil {
		t.Error(err)
	}
	if all, err := r.Keys(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("%d keys, %v", len(all), err)
	}
	if _, err := r.RotateKeys(t.Context()); err != nil {
		t.Error(err)
	}
	wantClean(t, openRepo(t, store))
}

// Neither names nor content of a backup are to be seen in the store.
func TestNothingIsInTheClear(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	disk := bytes.Repeat([]byte("the quick brown fox jumps over it "), 300)
	mustCommit(t, r, "lab/secret-name", disk)
	for _, name := range store.Names() {
		b, err := store.Read(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"quick", "secret-name", string(passphrase)} {
			if bytes.Contains(b, []byte(secret)) || strings.Contains(name, secret) {
				t.Errorf("%s shows %q", name, secret)
			}
		}
	}
}

// What is equal has other names and other bytes in another repository.
func TestRepositoriesAreApart(t *testing.T) {
	disk := image(1, block.WindowSize)
	var roots [2]repo.Root
	for i := range roots {
		store := mem.New()
		initRepo(t, store)
		roots[i] = mustCommit(t, openRepo(t, store), "lab/web", disk).Disks[0].Root
	}
	if roots[0].Node == roots[1].Node {
		t.Error("same names in two repositories")
	}
}

func TestCacheIsUsedAndMayBeLost(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	p := mustCommit(t, openRepo(t, store), "lab/web", image(1, block.WindowSize))
	f := faults.New(store)
	cache := t.TempDir()
	for i, want := range []int{1, 0} {
		f.ClearLog()
		r, err := repo.Open(t.Context(), f, repo.OpenOptions{Passphrase: passphrase, Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(f.Log(), "read index/"); got != want {
			t.Errorf("open %d reads %d index objects, want %d", i, got, want)
		}
		wantDisk(t, r, p.Disks[0].Root, image(1, block.WindowSize))
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Where the store does not hand out the key file that fits, the passphrase is not wrong.
func TestKeyFileThatCannotBeHad(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "other", repo.RoleBackup)
	broken := errors.New("connection reset")
	for nth := 1; nth <= 2; nth++ {
		f := faults.New(store)
		f.Add(faults.Fault{Op: faults.Read, Prefix: "keys/", Nth: nth, Before: broken})
		r, err := repo.Open(t.Context(), f, repo.OpenOptions{Passphrase: []byte("neither of them")})
		if !errors.Is(err, broken) {
			t.Errorf("%v, want %v", err, broken)
		}
		if err == nil {
			r.Close()
		}
	}
}
