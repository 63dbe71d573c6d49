package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
)

// discovering is a host that knows domains.
type discovering struct {
	snapshot.Host
	found []snapshot.Found
	err   error
}

func (h *discovering) Discover(context.Context) ([]snapshot.Found, error) { return h.found, h.err }

// A libvirt that is down keeps no VM of another from its backups, nor one domain the rest.
func TestMembersOfHostsThatFail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lull.yaml")
	text := `repositories:
  main: {dir: /srv/backup, passphrase_file: /etc/lull/passphrase}
hosts:
  a: {libvirt: {}}
  b: {libvirt: {uri: "qemu:///session"}}
groups:
  all:  {vms: ["*"], repository: main, schedule: manual}
  only: {vms: ["a/tag:db"], repository: main, schedule: manual}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	a := &discovering{found: []snapshot.Found{{Name: "db", Tags: []string{"db"}}, {Name: "web"}}}
	b := &discovering{err: snapshot.ErrUnreachable}
	hosts := map[string]snapshot.Host{"a": a, "b": b}
	in := &invocation{App: &App{}}
	all, only := in.members(cfg, hosts, "all"), in.members(cfg, hosts, "only")
	ask := func(members func(context.Context) ([]string, error), vms, trouble string) {
		t.Helper()
		got, err := members(t.Context())
		if !slices.Equal(got, strings.Fields(vms)) || (err == nil) != (trouble == "") || err != nil && !strings.Contains(err.Error(), trouble) {
			t.Errorf("%q, %v; want %s, %s", got, err, vms, trouble)
		}
	}
	ask(all, "a/db a/web", "host b: ")
	ask(only, "a/db", "")
	b.found, b.err = []snapshot.Found{{Name: "mail"}}, nil
	ask(all, "a/db a/web b/mail", "")
	a.found[0] = snapshot.Found{Name: "db", Problem: "no XML"}
	b.err = errors.New("it hangs")
	ask(all, "a/db a/web b/mail", "host b: it hangs")
	ask(only, "a/db", "tags of a/db are not known: no XML")
}
