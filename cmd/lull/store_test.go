package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/lull-backup/lull/transport/blob/s3/s3test"
)

// storeHost is a host whose repository is in a bucket, and each role's credential for it.
type storeHost struct {
	*s3test.Server
	t    *testing.T
	dir  string
	lock string // object_lock of the configuration
}

func newStoreHost(t *testing.T, o s3test.Options, lock string) *storeHost {
	t.Helper()
	h := &storeHost{Server: s3test.StartWith(t, o), t: t, dir: t.TempDir(), lock: lock}
	disk := make([]byte, 1<<20)
	for i := range disk {
		disk[i] = byte(i*i>>7 + i)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "web.img"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	h.configure(h.CredentialsFile)
	return h
}

func (h *storeHost) configure(credentials string) {
	h.t.Helper()
	text := fmt.Sprintf(`
repositories:
  offsite:
    s3: {endpoint: %q, bucket: %s, prefix: lull/, ca_file: %s, credentials_file: %s}
    passphrase_file: %s/passphrase
%s
hosts:
  cold: {images: {vms: [{name: web, disks: [{path: %s/web.img, format: raw}]}]}}
groups:
  nightly: {vms: ["*"], repository: offsite, schedule: manual, keep: {daily: 14}}
agent: {state_dir: %s/state, cache_dir: %s/cache}
`, h.Endpoint, h.Bucket, h.CAFile, credentials, h.dir, h.lock, h.dir, h.dir, h.dir)
	for name, content := range map[string]string{"lull.yaml": text, "passphrase": "correct horse"} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(content), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
}

// lull runs a command, and wants it to end with code.
func (h *storeHost) lull(code int, args ...string) (stdout, stderr string) {
	h.t.Helper()
	var out, errs strings.Builder
	app := &App{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Env: func(string) string { return "" }, Version: "test", Cost: cheap()}
	if got := app.Run(h.t.Context(), append(args, "--config", filepath.Join(h.dir, "lull.yaml"))); got != code {
		h.t.Fatalf("lull %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// diagnoses are the results of the doctor, by check.
func (h *storeHost) diagnoses(code int) map[string]diagnosis {
	h.t.Helper()
	out, _ := h.lull(code, "doctor", "--json")
	line, _, _ := strings.Cut(out, "\n")
	var got struct{ Checks []diagnosis }
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		h.t.Fatalf("%v in %s", err, out)
	}
	all := map[string]diagnosis{}
	for _, d := range got.Checks {
		all[d.Check] = d
	}
	return all
}

func (h *storeHost) wantResult(all map[string]diagnosis, check, result, detail string) {
	h.t.Helper()
	if d := all[check]; d.Result != result || !strings.Contains(d.Detail, detail) {
		h.t.Errorf("%s: %+v, want %s %q", check, d, result, detail)
	}
}

// objects calls fn for the name of each object that is there.
func (h *storeHost) objects(fn func(name string)) {
	h.t.Helper()
	for o := range h.Admin(h.t).ListObjectsIter(h.t.Context(), h.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			h.t.Fatal(o.Err)
		}
		fn(o.Key)
	}
}

// From init to a theft and back: a repository under object lock.
func TestLockedRepository(t *testing.T) {
	t.Parallel()
	h := newStoreHost(t, s3test.Options{Locks: true}, "    object_lock: {mode: compliance, days: auto}")
	h.lull(exitDone, "init")
	h.lull(exitDone, "backup", "web")
	if out, _ := h.lull(exitDone, "lock", "renew", "--json"); !strings.Contains(out, `"points":1`) || strings.Contains(out, `"renewed":0`) {
		t.Errorf("renew: %s", out)
	}
	if out, _ := h.lull(exitDone, "lock", "renew"); !strings.HasPrefix(out, "0 locks renewed of ") {
		t.Errorf("renew again: %s", out)
	}
	all := h.diagnoses(exitDone)
	h.wantResult(all, "object lock", resultOK, "compliance, 14 days; 1 restore point")
	if d, is := all["object lock and keep"]; is {
		t.Errorf("days that follow the rules: %+v", d)
	}
	h.wantResult(all, "hidden objects", resultOK, "")
	h.wantResult(all, "key", resultOK, "owner")

	thief := h.Admin(t)
	h.objects(func(name string) {
		err := thief.RemoveObject(t.Context(), h.Bucket, name, minio.RemoveObjectOptions{VersionID: versionOf(t, thief, h.Bucket, name), GovernanceBypass: true})
		if err == nil && !strings.Contains(name, "/sessions/") {
			t.Errorf("%s was deleted for good", name)
		}
		if err := thief.RemoveObject(t.Context(), h.Bucket, name, minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	h.wantResult(h.diagnoses(exitFailed), "hidden objects", resultFailed, "deleted or overwritten by other means than lull")
	if out, _ := h.lull(exitDone, "repo", "undelete", "--list"); !strings.Contains(out, "config") {
		t.Errorf("hidden: %s", out)
	}
	h.lull(exitDone, "repo", "undelete")
	h.lull(exitDone, "restore", "web", "--to", filepath.Join(h.dir, "back"))
	h.lull(exitDone, "check", "--all")
}

func versionOf(t *testing.T, c *minio.Client, bucket, name string) string {
	t.Helper()
	info, err := c.StatObject(t.Context(), bucket, name, minio.StatObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info.VersionID
}

// What is wrong with a bucket's locks is found at init, and by the doctor later.
func TestWrongLocks(t *testing.T) {
	t.Parallel()
	t.Run("no lock", func(t *testing.T) {
		h := newStoreHost(t, s3test.Options{}, "    object_lock: {mode: governance, days: 3}")
		if _, errs := h.lull(exitFailed, "init"); !strings.Contains(errs, "object_lock cannot be kept") {
			t.Error(errs)
		}
		h.lock = ""
		h.configure(h.CredentialsFile)
		h.lull(exitDone, "init")
		h.lock = "    object_lock: {mode: governance, days: 3}"
		h.configure(h.CredentialsFile)
		h.wantResult(h.diagnoses(exitFailed), "object lock", resultFailed, "the bucket has no object lock")
	})
	t.Run("default retention", func(t *testing.T) {
		h := newStoreHost(t, s3test.Options{Locks: true}, "    object_lock: {mode: governance, days: 3}")
		h.DefaultRetention(t, minio.Governance, 30)
		_, errs := h.lull(exitDone, "init")
		for _, want := range []string{"locks every new object for 30 days (governance), longer than object_lock's 3", "for up to 14 days, and object_lock locks for 3"} {
			if !strings.Contains(errs, want) {
				t.Errorf("%q is not in %s", want, errs)
			}
		}
		h.wantResult(h.diagnoses(exitDone), "store: default retention", resultWarning, "30 days")
	})
	t.Run("not locked", func(t *testing.T) {
		h := newStoreHost(t, s3test.Options{Locks: true}, "")
		h.lull(exitDone, "init")
		h.lull(exitDone, "backup", "web")
		h.lock = "    object_lock: {mode: governance, days: 3}"
		h.configure(h.CredentialsFile)
		all := h.diagnoses(exitDone)
		h.wantResult(all, "object lock", resultWarning, "is not locked")
		h.wantResult(all, "object lock and keep", resultWarning, "keep restore points for up to 14 days, and object_lock locks for 3")
		h.lull(exitDone, "lock", "renew")
		h.wantResult(h.diagnoses(exitDone), "object lock", resultOK, "governance, 3 days")
	})
}

// as makes lull use the credential of a role, and gives that the policy which lull writes.
func (h *storeHost) as(role string) {
	h.t.Helper()
	file := h.AddUser(h.t, role)
	out, _ := h.lull(exitDone, "repo", "policy", "--role", role, "--principal", role)
	var compact json.RawMessage
	if err := json.Unmarshal([]byte(out), &compact); err != nil {
		h.t.Fatal(err)
	}
	text, err := json.Marshal(compact)
	if err != nil {
		h.t.Fatal(err)
	}
	h.SetPolicy(h.t, string(text))
	h.configure(file)
}

// Each role does its real work with the policy that `lull repo policy` writes for it.
func TestRolesWorkWithTheirPolicies(t *testing.T) {
	t.Parallel()
	h := newStoreHost(t, s3test.Options{Locks: true, Users: true}, "    object_lock: {mode: governance, days: 3}")
	h.as("owner")
	h.lull(exitDone, "init")
	h.addHost1()
	h.as("backup")
	h.lull(exitDone, "backup", "web")
	h.wantResult(h.diagnoses(exitDone), "store", resultOK, "")
	var left []string
	h.objects(func(name string) {
		if strings.Contains(name, "/probe/") {
			left = append(left, name)
		}
	})
	if len(left) > 0 {
		t.Errorf("left by probes: %v", left)
	}
	h.as("restore")
	h.lull(exitDone, "restore", "web", "--to", filepath.Join(h.dir, "back"))
	h.wantResult(h.diagnoses(exitDone), "store", resultUnknown, "")
	if _, errs := h.lull(exitLocked, "backup", "web"); !strings.Contains(errs, "access denied") {
		t.Error(errs)
	}
	h.as("maintain")
	h.lull(exitDone, "lock", "renew")
	h.maintain(0)
	h.lull(exitDone, "check", "--all")
}

// Where nothing is locked the maintain role's policy lets go what nothing needs and what is
// damaged, and no more.
func TestMaintenanceWithItsPolicy(t *testing.T) {
	t.Parallel()
	h := newStoreHost(t, s3test.Options{Users: true}, "")
	h.as("owner")
	h.lull(exitDone, "init")
	h.addHost1()
	h.as("backup")
	h.lull(exitDone, "backup", "web")
	if err := os.WriteFile(filepath.Join(h.dir, "web.img"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.lull(exitDone, "backup", "web")
	h.as("maintain")
	h.maintain(1)
	damaged := 0
	h.objects(func(name string) {
		if !strings.Contains(name, "/index/") || damaged > 0 {
			return
		}
		damaged++
		if _, err := h.Admin(t).PutObject(t.Context(), h.Bucket, name, strings.NewReader("no index"), -1, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	if out, _ := h.lull(exitDone, "check", "--repair"); damaged == 0 || !strings.Contains(out, "1 index object written") {
		t.Errorf("%d damaged, repair: %s", damaged, out)
	}
	h.lull(exitDone, "check", "--all")
}

// addHost1 makes a key to remove.
func (h *storeHost) addHost1() {
	h.t.Helper()
	file := filepath.Join(h.dir, "host1.passphrase")
	if err := os.WriteFile(file, []byte("host one battery"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.lull(exitDone, "key", "add", "host1", "--role", "backup", "--new-passphrase-file", file)
}

// maintain does what maintenance does on a store that lets go so many points.
func (h *storeHost) maintain(going int) {
	h.t.Helper()
	out, _ := h.lull(exitDone, "forget", "web", "--keep-last", "1", "--dry-run", "--json")
	var all struct{ Points []forgotten }
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all.Points) == 0 {
		h.t.Fatalf("%v in %s", err, out)
	}
	for _, p := range all.Points {
		h.lull(exitDone, "hold", p.Point)
	}
	if _, errs := h.lull(exitDone, "forget", "web", "--keep-last", "1"); !strings.Contains(errs, "0 restore points of") {
		h.t.Errorf("forget what is held: %s", errs)
	}
	for _, p := range all.Points {
		h.lull(exitDone, "release", p.Point)
	}
	if _, errs := h.lull(exitDone, "forget", "web", "--keep-last", "1"); !strings.Contains(errs, fmt.Sprintf("%d restore point", going)) {
		h.t.Errorf("forget: %s", errs)
	}
	if _, errs := h.lull(exitDone, "prune", "--max-unused", "0"); (going > 0) == strings.Contains(errs, "by a later prune: 0 packs") {
		h.t.Errorf("prune: %s", errs)
	}
	h.lull(exitDone, "prune")
	h.lull(exitDone, "check", "--repair")
	if out, _ := h.lull(exitDone, "key", "remove", "host1"); !strings.Contains(out, "key host1 is removed; its file stays, as") {
		h.t.Errorf("key remove: %s", out)
	}
	if out, _ := h.lull(exitDone, "key", "list"); !strings.Contains(out, "removed ") {
		h.t.Errorf("keys: %s", out)
	}
}
