package config_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/agent/schedule"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what the parser says into testdata/errors")

// example is the shape of the file, every key once.
const example = `
repositories:
  main: {dir: /srv/backup, passphrase_file: /etc/lull/passphrase}
  offsite:
    maintenance: {schedule: manual, grace: 72h}
    s3: {endpoint: https://s3.example.net, bucket: vms, prefix: lull, region: eu-1, ca_file: /etc/lull/ca.pem, credentials_file: /etc/lull/credentials}
    passphrase_file: /etc/lull/passphrase
hosts:
  lab:
    qemu:
      vms: [{name: web, qmp: /run/vm/web.qmp, guest_agent: /run/vm/web.qga}, {name: db, qmp: /run/vm/db.qmp, delta_dir: /srv/db/deltas/, wipe_deltas: true}]
      delta_dir: /srv/deltas
      space: {free: {soft: 10%, hard: 20GiB}, delta: {soft: 25%, hard: 50%}}
  cold: {images: {vms: [{name: old, disks: [{path: /srv/old/disk.qcow2, format: qcow2}, {path: /srv/old/data.img, format: raw, name: data}, {path: /srv/old/top.avhdx, format: vhdx, parents: [/srv/base/base.vhdx]}]}]}}
groups:
  nightly:
    vms: ["*"]
    repository: main
    schedule: "CRON_TZ=Europe/Berlin 30 1 * * *"
    consistency: {ladder: [application, filesystem, crash], floor: filesystem, window: 20s, retry: {attempts: 5, delay: 30s, until: 10m}}
    writers: [redis, filesystem, app]
    mount_points: [/, /srv]
    keep: {last: 3, daily: 14, weekly: 8, monthly: 12, yearly: 2}
    catch_up: false
    tracking: {enabled: true, audit: 720h}
    wipe_deltas: false
  offsite:
    vms: [lab/w*, old]
    repository: offsite
    schedule: manual
plugins:
  redis: {sha256: 9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08, grants: [exec, info], args: [--fast], env: {LEVEL: "2", A: b}, user: redis}
  mongo: {sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
scripts:
  app: {where: guest, freeze: [/opt/app/freeze, --all], thaw: [/opt/app/thaw], limit: 20s, tier: front-end}
  storage: {where: host, freeze: [/usr/local/sbin/hold]}
databases:
  postgresql: {service_file: /etc/lull/pg_service.conf}
  mariadb: {defaults_file: /etc/lull/my.cnf, only: [/var/lib/mysql]}
checkpoints: {max_age: 72h, max_growth_gib: 8, max_depth: 12, max_stop: 90s}
agent:
  state_dir: /srv/state
  plugin_dir: /srv/plugins
  cache_dir: /srv/cache
  socket: /run/other.sock
  parallel: 4
  jitter: 10m
`

// sum of the program of each plugin in the example.
const sum = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func berlin(t *testing.T) schedule.Schedule {
	t.Helper()
	s, err := schedule.Parse("CRON_TZ=Europe/Berlin 30 1 * * *", nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// daily is the maintenance of a repository that says nothing of it.
func daily(t *testing.T) config.Maintenance {
	t.Helper()
	s, err := schedule.Parse(config.DefaultMaintenance, time.Local)
	if err != nil {
		t.Fatal(err)
	}
	return config.Maintenance{Schedule: s, Grace: config.DefaultGrace}
}

func TestParseEveryKey(t *testing.T) {
	got, err := config.Parse("lull.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Path:  "lull.yaml",
		Agent: config.Agent{StateDir: "/srv/state", CacheDir: "/srv/cache", PluginDir: "/srv/plugins", Socket: "/run/other.sock", Parallel: 4, Jitter: 10 * time.Minute},
		Repositories: []config.Repository{
			{Name: "main", Dir: "/srv/backup", PassphraseFile: "/etc/lull/passphrase", Maintenance: daily(t)},
			{Name: "offsite", PassphraseFile: "/etc/lull/passphrase", Maintenance: config.Maintenance{Grace: 72 * time.Hour}, S3: &config.S3{
				Endpoint: "https://s3.example.net", Bucket: "vms", Prefix: "lull/", Region: "eu-1",
				CAFile: "/etc/lull/ca.pem", CredentialsFile: "/etc/lull/credentials",
			}},
		},
		Hosts: []config.Host{
			{Name: "cold", Images: []config.ImageVM{{Name: "old", Disks: []config.ImageDisk{
				{Name: "disk", Path: "/srv/old/disk.qcow2", Format: snapshot.FormatQcow2},
				{Name: "data", Path: "/srv/old/data.img", Format: snapshot.FormatRaw},
				{Name: "top", Path: "/srv/old/top.avhdx", Format: snapshot.FormatVHDX, Parents: []string{"/srv/base/base.vhdx"}},
			}}}},
			{Name: "lab", QEMU: []config.QEMUVM{
				{Name: "web", QMP: "/run/vm/web.qmp", GuestAgent: "/run/vm/web.qga"},
				{Name: "db", QMP: "/run/vm/db.qmp", Deltas: config.Deltas{Dir: "/srv/db/deltas", Wipe: true}},
			}, Deltas: config.Deltas{Dir: "/srv/deltas"}, Space: space.Limits{
				Free:  space.Pair{Soft: space.Amount{Percent: 10}, Hard: space.Amount{Bytes: 20 << 30}},
				Delta: space.Pair{Soft: space.Amount{Percent: 25}, Hard: space.Amount{Percent: 50}},
			}},
		},
		Plugins: []config.Plugin{
			{Name: "mongo", Path: "/srv/plugins/mongo", SHA256: sum},
			{
				Name: "redis", Path: "/srv/plugins/redis", SHA256: sum, Grants: []string{"exec", "info"},
				Args: []string{"--fast"}, Env: []string{"A=b", "LEVEL=2"}, User: "redis",
			},
		},
		Scripts: []config.Script{
			{Name: "app", Freeze: []string{"/opt/app/freeze", "--all"}, Thaw: []string{"/opt/app/thaw"}, Limit: 20 * time.Second, Tier: quiesce.FrontEnd},
			{Name: "storage", Host: true, Freeze: []string{"/usr/local/sbin/hold"}, Limit: config.DefaultScriptLimit, Tier: quiesce.BackEnd},
		},
		Databases: config.Databases{
			PostgreSQLServiceFile: "/etc/lull/pg_service.conf", MariaDBDefaultsFile: "/etc/lull/my.cnf", MariaDBOnly: []string{"/var/lib/mysql"},
		},
		Checkpoints: config.Checkpoints{MaxAge: 72 * time.Hour, MaxGrowth: 8 << 30, MaxDepth: 12, MaxStop: 90 * time.Second},
		Groups: []config.Group{
			{
				Writers: []string{"app", "filesystem", "redis"}, MountPoints: []string{"/", "/srv"},
				Name: "nightly", Patterns: []string{"*"}, VMs: []string{"cold/old", "lab/db", "lab/web"},
				Repository: "main", Schedule: berlin(t),
				Policy: quiesce.Policy{
					Ladder: []quiesce.Level{quiesce.LevelApplication, quiesce.LevelFilesystem, quiesce.LevelCrash},
					Floor:  quiesce.LevelFilesystem, Window: 20 * time.Second,
					Retry: quiesce.Retry{Attempts: 5, Delay: 30 * time.Second, Until: 10 * time.Minute},
				},
				Keep:     retention.Keep{Last: 3, Daily: 14, Weekly: 8, Monthly: 12, Yearly: 2},
				Tracking: config.Tracking{Enabled: true, Audit: 720 * time.Hour},
			},
			{
				Writers: []string{"app", "filesystem", "mariadb", "mongo", "postgresql", "redis", "storage"},
				Name:    "offsite", Patterns: []string{"lab/w*", "old"}, VMs: []string{"cold/old", "lab/web"},
				Repository: "offsite",
				Policy: quiesce.Policy{
					Ladder: []quiesce.Level{quiesce.LevelFilesystem, quiesce.LevelCrash},
					Floor:  quiesce.LevelCrash, Window: quiesce.DefaultWindow, Retry: quiesce.DefaultRetry(),
				},
				CatchUp:  true,
				Tracking: config.Tracking{Enabled: true},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseDefaults(t *testing.T) {
	got, err := config.Parse("lull.yaml", []byte("repositories: {main: {dir: /srv/backup/}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Path:         "lull.yaml",
		Agent:        config.Agent{StateDir: "/var/lib/lull", CacheDir: "/var/cache/lull", PluginDir: "/usr/lib/lull/plugins", Socket: "/run/lull/lull.sock", Parallel: 2},
		Repositories: []config.Repository{{Name: "main", Dir: "/srv/backup", Maintenance: daily(t)}},
		Checkpoints: config.Checkpoints{
			MaxAge: config.DefaultCheckpointAge, MaxGrowth: config.DefaultCheckpointGrowth, MaxDepth: config.DefaultCheckpointDepth, MaxStop: config.DefaultCheckpointStop,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestErrors holds each archive of testdata/errors: the file, and every line
// that lull says about it.
func TestErrors(t *testing.T) {
	paths, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { golden(t, path) })
	}
}

func golden(t *testing.T, path string) {
	t.Helper()
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(ar.Files) == 1 {
		ar.Files = append(ar.Files, txtar.File{Name: "want"})
	}
	got := said(config.Parse("lull.yaml", ar.Files[0].Data))
	if *update {
		ar.Files[1].Data = []byte(got)
		if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(ar.Files[1].Data), got); diff != "" {
		t.Error(diff)
	}
}

func said(c *config.Config, err error) string {
	if err != nil {
		return err.Error() + "\n"
	}
	out := ""
	for _, w := range c.Warnings {
		out += "warning: " + w.String() + "\n"
	}
	return out
}

// TestOneErrorEach holds the words for one thing wrong at a time.
func TestOneErrorEach(t *testing.T) {
	for name, c := range map[string]struct{ data, want string }{
		"empty":        {"", "x:1: the file is empty; begin with repositories:, as in docs/configuration.md"},
		"comment only": {"# nothing\n", "x:1: the file is empty; begin with repositories:, as in docs/configuration.md"},
		"null":         {"~\n", "x:1: the file is empty; begin with repositories:, as in docs/configuration.md"},
		"a list":       {"- a\n", "x:1: the file is a list; write keys and values under it"},
		"latin-1":      {"repositories:\n  m\xfcll: {dir: /x}\n", "x:2: this is no UTF-8 text; save the file as UTF-8"},
		"zero byte":    {"repositories:\n\n  \x00", "x:3: this is no UTF-8 text; save the file as UTF-8"},
		"two documents": {"repositories: {m: {dir: /x}}\n---\nrepositories: {}\n",
			"x:2: a second document begins; remove the --- line: a file holds one document"},
		"tab":       {"repositories:\n\tm: {dir: /x}\n", "x:2: a tab stands in the indentation; indent with spaces"},
		"bare star": {"repositories: {m: {dir: /x}}\ngroups:\n  g:\n    vms: [*]\n", `x:4: a bare * does not begin a value in YAML; put the value in quotes, such as "*"`},
		"bare cron": {"repositories: {m: {dir: /x}}\ngroups:\n  g:\n    schedule: * 1 * * *\n", `x:4: a bare * does not begin a value in YAML; put the value in quotes, such as "*"`},
		"second colon": {"repositories:\n  m: dir: /x\n",
			"x:2: a colon where none can stand; put a value with a colon in quotes, begin a line for each key, and end each key with a colon"},
		"open bracket": {"repositories:\n  m: {dir: /x\n", "x:2: a bracket is not closed, or a comma is missing; close it with ] or }, and put commas between its items"},
		"open quotes":  {"repositories:\n  m: {dir: \"/x}\n", "x:2: quotes are not closed; close them"},
		"indentation": {"repositories:\n  a:\n    dir: /x\n  b:\n    dir: /x\n   c: 1\nhosts: {}\n",
			"x:6: the indentation does not fit the lines above; indent the keys of one section alike, and close quotes and brackets"},
		"list":       {"repositories:\n  a:\n    - dir\n    b: 1\n", "x:4: a list is broken off; begin each item with a dash, all indented alike"},
		"no colon":   {"repositories:\n  main\n  other: {dir: /x}\n", "x:3: a colon where none can stand; put a value with a colon in quotes, begin a line for each key, and end each key with a colon"},
		"at sign":    {"repositories: {m: {dir: /x}}\ngroups:\n  g:\n    schedule: @daily\n    repository: m\n", "x:4: a character that begins no value, such as @, ` or %; put the value in quotes"},
		"backslash":  {"repositories:\n  m:\n    dir: \"C:\\x\"\n", "x:3: a backslash in double quotes; use single quotes, or write it twice"},
		"deep":       {strings.Repeat("[", 20000), "x:1: brackets or indentation go thousands deep; write the sections as in docs/configuration.md"},
		"many lines": {strings.Repeat("#\n", 1500) + "repositories:\n\tm: {dir: /x}\n", "x:1502: a tab stands in the indentation; indent with spaces"},
		"merge": {"repositories: {m: {dir: /x}}\ngroups:\n  g: {vms: [\"*\"], repository: m, schedule: manual, merge: {slow_after: 10m, slow_to: 1KiB}}\n",
			"x:3: slow_to of merge of group \"g\" is 1KiB, out of range; write bytes a second with their unit, from 64KiB to 1024GiB, such as 20MiB"},
		"large": {strings.Repeat("#", config.MaxSize+1), "x:1: the file is larger than 1024 KiB; keep to the configuration of one host"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want+"\n", said(config.Parse("x", []byte(c.data)))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestErrorsShowNoSecret(t *testing.T) {
	const data = `
repositories:
  a: {dir: /x, passphrase_file: hunter2}
  b: {dir: /x, passphrase: hunter2}
  c: {s3: {endpoint: "https://me:hunter2@s3.example.net", bucket: vms, secret_key: hunter2}}
  d: {s3: {endpoint: "hunter2", bucket: vms, credentials_file: [hunter2]}}
`
	_, err := config.Parse("x", []byte(data))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error is nil or shows the secret: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	for _, s := range []string{"", "a: &a [*a, *a]", "<<: {}", "repositories: !!binary x", "? [a]\n: b", "groups: {g: {keep: {last: 017}}}", "a: |\n\tb", "\ufeffa: b", "a: \"\\x", "[[[[", "---\n---\n"} {
		f.Add([]byte(s))
	}
	paths, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		ar, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(ar.Files[0].Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse("x", data)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v and error %v", c, err)
		}
		if err == nil {
			return
		}
		list, ok := err.(config.Errors)
		if !ok || len(list) == 0 {
			t.Fatalf("error of type %T with %d problems", err, len(list))
		}
		lines := 2                                                                  // a problem at the end of the file may stand one past it
		for _, ending := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} { // all that YAML takes for one
			lines += strings.Count(string(data), ending)
		}
		for i, p := range list {
			if p.Line < 1 || p.Line > lines || p.What == "" || p.Instead == "" || strings.ContainsAny(p.String(), "\n\x00") {
				t.Errorf("problem without position, words or on several lines: %q", p.String())
			}
			if i > 0 && list[i-1].Line > p.Line {
				t.Errorf("line %d before line %d", list[i-1].Line, p.Line)
			}
		}
	})
}
