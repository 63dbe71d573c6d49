package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/transport/blob/s3/s3test"
)

// bucket is a repository of a bench behind a proxy that can be cut.
func (b *bench) bucket(server *s3test.Server, endpoint string) {
	b.t.Helper()
	if err := writeDisk(b.path("old.img"), 96<<20, 1); err != nil {
		b.t.Fatal(err)
	}
	b.write("lull.yaml", fmt.Sprintf(`
agent: {state_dir: %[1]s/state, cache_dir: %[1]s/cache, socket: %[1]s/lull.sock}
repositories:
  main: {s3: {endpoint: %[2]q, bucket: %[3]s, region: us-east-1, ca_file: %[4]s, credentials_file: %[5]s}}
hosts:
  cold: {images: {vms: [{name: old, disks: [{path: %[1]s/old.img, format: raw}]}]}}
groups:
  nightly: {vms: ["*"], repository: main, schedule: "@daily"}
`, b.dir, endpoint, server.Bucket, server.CAFile, server.CredentialsFile))
}

// outage is how long the store stays away in TestOutage: more than the minute that a
// run is promised to survive.
const outage = 62 * time.Second

// TestOutage: the store goes away in the middle of an upload for more than a minute,
// on the clock of the wall, as every timeout on the way counts: those of the kernel,
// of the S3 client and of lull. It runs beside the other tests, so that they lose no
// time to it. The backup is made all the same, and every byte of it is there.
func TestOutage(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	proxy := server.Proxy(t)
	b := newBench(t)
	b.bucket(server, proxy.Endpoint)
	config := func(args ...string) []string { return append(args, "--config", b.path("lull.yaml")) }
	b.lull(0, config("init")...)

	proxy.CutFor(20<<20, outage)
	begun := time.Now()
	_, stderr := b.lull(0, config("backup", "old")...)
	if took := time.Since(begun); took < outage {
		t.Errorf("the backup took %v: there was no outage of %v in it", took, outage)
	}
	if proxy.Refused() < 5 || !strings.Contains(stderr, "trying again") {
		t.Errorf("%d connections were refused, and the outage is not mentioned:\n%s", proxy.Refused(), stderr)
	}
	b.lull(0, config("check", "--all")...)
	b.lull(0, config("restore", "old", "--to", b.path("out"))...)
	b.sameFile(b.path("old.img"), b.path("out/old.img"))
}

// TestLostStore: the store goes away for good in the middle of a run. The run ends
// when patience does, with one line; the next one, with the store, is whole.
func TestLostStore(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	b := newBench(t)
	b.app.Patience = 2 * time.Second
	b.bucket(server, server.Endpoint)
	config := func(args ...string) []string { return append(args, "--config", b.path("lull.yaml")) }
	b.lull(0, config("init")...)

	stopped := false
	b.app.Observe = func(e agent.Event) {
		if e.Step == agent.StepPrepared && !stopped {
			stopped = true
			server.Stop(t)
		}
	}
	_, stderr := b.lull(exitLocked, config("backup", "old", "--quiet")...)
	if strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "store is unreachable") || strings.Count(stderr, "back up") != 1 {
		t.Errorf("stderr is not one line that says unreachable:\n%s", stderr)
	}
	server.Restart(t)
	b.lull(0, config("check", "--all")...)
	b.lull(0, config("backup", "old")...)
	b.lull(0, config("restore", "old", "--to", b.path("out"))...)
	b.sameFile(b.path("old.img"), b.path("out/old.img"))
}
