package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/config"
)

const libvirtFile = `repositories:
  main: {dir: /srv/backup, passphrase_file: /etc/lull/passphrase}
hosts:
  kvm: {libvirt: {exclude: ["test-*", "tag:scratch"]}}
  lab: {qemu: {vms: [{name: web, qmp: /run/vm/web.qmp}]}}
groups:
  all:     {vms: ["*"], repository: main, schedule: manual, keep: {last: 3}}
  nightly: {vms: ["tag:night*", "kvm/tag:db"], repository: main, schedule: "30 1 * * *", keep: {last: 3}}
  weekly:  {vms: ["kvm/web"], repository: main, schedule: manual, keep: {last: 9}}
`

func parsed(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("lull.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLibvirtHost(t *testing.T) {
	c := parsed(t, libvirtFile)
	if len(c.Warnings) > 0 || !c.Discovers() {
		t.Errorf("warnings %v", c.Warnings)
	}
	if diff := cmp.Diff([]string{"lab/web"}, c.VMs()); diff != "" {
		t.Error(diff)
	}
	found := []config.FoundVM{
		{Name: "web", Tags: []string{"nightly"}}, {Name: "Win2019", Tags: []string{"db"}}, {Name: "other"},
		{Name: "test-1"}, {Name: "old", Tags: []string{"scratch"}}, {Name: "a@b"}, {Name: "tag:x"},
	}
	next := c.With("kvm", found)
	want := map[string][]string{
		"all":     {"kvm/Win2019", "kvm/other", "kvm/web", "lab/web"},
		"nightly": {"kvm/Win2019", "kvm/web"},
		"weekly":  nil, // all has it, and another keep
	}
	for _, g := range next.Groups {
		if diff := cmp.Diff(want[g.Name], g.VMs, cmp.Transformer("empty", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
			t.Errorf("group %s: %s", g.Name, diff)
		}
	}
	if len(next.Warnings) != 1 || !strings.Contains(next.Warnings[0].What, "weekly leaves it out") {
		t.Errorf("warnings %v", next.Warnings)
	}
	if diff := cmp.Diff([]string{"kvm/web"}, next.Match("kvm/tag:nightly")); diff != "" {
		t.Error(diff)
	}
	if len(c.VMs()) != 1 || len(c.Groups[0].VMs) != 1 {
		t.Error("the file itself has changed")
	}
	if again := next.With("kvm", nil); len(again.VMs()) != 1 {
		t.Errorf("after they are gone: %v", again.VMs())
	}
	if c.With("lab", found) != c {
		t.Error("a host of sockets finds nothing")
	}
}

func TestLibvirtURIs(t *testing.T) {
	for uri, problem := range map[string]string{
		"qemu:///system":  "",
		"qemu:///session": "",
		"qemu+unix:///system?socket=/run/libvirt/x-sock": "",
		"qemu+unix:///system?socket=%2Frun%2Fx":          "",
		"qemu+ssh://root@kvm2/system":                    "run lull's agent on that host",
		"qemu+tls://kvm2/system":                         "run lull's agent on that host",
		"qemu://kvm2/system":                             "run lull's agent on that host",
		"xen:///system":                                  "no URI of QEMU",
		"qemu:///system?mode=direct":                     "no URI of QEMU",
	} {
		text := strings.Replace(libvirtFile, "exclude: [", "uri: \""+uri+"\", exclude: [", 1)
		_, err := config.Parse("lull.yaml", []byte(text))
		if problem == "" && err != nil || problem != "" && (err == nil || !strings.Contains(err.Error(), problem)) {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestLibvirtProblems(t *testing.T) {
	for hosts, problem := range map[string]string{
		"{a: {libvirt: {}}, b: {libvirt: {uri: \"qemu:///system\"}}}":          "is also the libvirt of host",
		"{a: {libvirt: {vms: [\"a/b\"]}}}":                                     "is no pattern",
		"{a: {libvirt: {vms: [\"[\"]}}}":                                       "is no pattern",
		"{a: {libvirt: {user: x}}}":                                            "unknown key",
		"{a: {libvirt: {}, qemu: {vms: [{name: web, qmp: /run/vm/web.qmp}]}}}": "has both qemu and libvirt",
	} {
		_, err := config.Parse("lull.yaml", []byte("repositories:\n  main: {dir: /srv/backup, passphrase_file: /etc/p}\nhosts: "+hosts+"\n"))
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v", hosts, err)
		}
	}
}

// Deltas of VMs that the file does not name are overwritten where a group may hold them.
func TestWipesDeltasOfFoundVMs(t *testing.T) {
	const file = `repositories:
  main: {dir: /srv/backup, passphrase_file: /etc/lull/passphrase}
hosts:
  kvm: {libvirt: {}}
  low: {libvirt: {uri: "qemu:///session"}}
  lab: {qemu: {vms: [{name: db, qmp: /run/vm/db.qmp}]}}
groups:
  names: {vms: ["kvm/db*"], repository: main, schedule: manual, wipe_deltas: true}
  tags:  {vms: ["low/tag:secret"], repository: main, schedule: manual, wipe_deltas: true}
  rest:  {vms: ["*"], repository: main, schedule: manual}
`
	c := parsed(t, file)
	found := c.With("kvm", []config.FoundVM{{Name: "db1"}, {Name: "web"}}).
		With("low", []config.FoundVM{{Name: "a", Tags: []string{"secret"}}, {Name: "b"}})
	for vm, want := range map[string][2]bool{ // before and after its host was asked
		"kvm/db1": {true, true}, "kvm/web": {false, false}, "kvm/db-gone": {true, true},
		"low/a": {true, true}, "low/b": {true, false}, "lab/db": {false, false},
	} {
		if got := [2]bool{c.WipesDeltas(vm), found.WipesDeltas(vm)}; got != want {
			t.Errorf("%s: %v, want %v", vm, got, want)
		}
	}
	names, rest := c.Groups[0], c.Groups[1]
	if names.Name != "names" || !names.Reaches("kvm") || names.Reaches("low") || !rest.Reaches("low") {
		t.Errorf("reach of %s and %s", names.Name, rest.Name)
	}
}
