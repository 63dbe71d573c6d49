package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/config"
)

const lockFile = `
repositories:
  main: {s3: {endpoint: "https://s3.example.net", bucket: vms}, object_lock: %s}
  other: {dir: /srv/other}
hosts:
  cold: {images: {vms: [{name: old, disks: [{path: /srv/old.img, format: raw}]}, {name: new, disks: [{path: /srv/new.img, format: raw}]}]}}
groups:
  a: {vms: [old], repository: main, schedule: manual, keep: %s}
  b: {vms: [new], repository: main, schedule: manual, keep: {daily: 3}}
  c: {vms: ["*"], repository: other, schedule: manual, keep: {yearly: 5}}
`

func TestObjectLock(t *testing.T) {
	for _, c := range []struct {
		lock, keep string
		want       config.ObjectLock
	}{
		{"{mode: governance, days: 30}", "{daily: 14}", config.ObjectLock{Mode: "governance", Days: 30, Longest: 30}},
		{"{mode: compliance, days: auto}", "{daily: 14}", config.ObjectLock{Mode: "compliance", Days: 14, Follow: true, Longest: 14}},
		{"{mode: compliance}", "{daily: 14, weekly: 8}", config.ObjectLock{Mode: "compliance", Days: 14, Follow: true, Longest: 56}},
		{"{mode: governance}", "{last: 90, monthly: 3, weekly: 8}", config.ObjectLock{Mode: "governance", Days: 56, Follow: true, Longest: 93}},
		{"{mode: governance}", "{monthly: 3, yearly: 1}", config.ObjectLock{Mode: "governance", Days: 93, Follow: true, Longest: 366}},
		{"{mode: governance}", "{yearly: 9999}", config.ObjectLock{Mode: "governance", Days: 36500, Follow: true, Longest: 36500}},
	} {
		got, err := config.Parse("x", fmt.Appendf(nil, lockFile, c.lock, c.keep))
		if err != nil {
			t.Errorf("%s %s: %v", c.lock, c.keep, err)
			continue
		}
		main, _ := got.Repository("main")
		other, _ := got.Repository("other")
		if d := cmp.Diff(&c.want, main.ObjectLock); d != "" || other.ObjectLock != nil {
			t.Errorf("%s %s (-want +got):\n%s", c.lock, c.keep, d)
		}
	}
}

func TestWrongObjectLock(t *testing.T) {
	for _, c := range []struct{ lock, keep, want string }{
		{"{days: 30}", "{daily: 1}", "add mode: governance"},
		{"{mode: strict}", "{daily: 1}", "write governance or compliance"},
		{"{mode: governance, days: 0}", "{daily: 1}", "write a number from 1 to 36500"},
		{"{mode: governance, days: often}", "{daily: 1}", "write a number from 1 to 36500"},
		{"{mode: governance, for: 3}", "{daily: 1}", `unknown key "for"`},
		{"{mode: governance}", "{last: 3}", `the keep of group "a" has no rule that speaks of time; write a number of days`},
		{"yes", "{daily: 1}", "write keys and values under it"},
	} {
		_, err := config.Parse("x", fmt.Appendf(nil, lockFile, c.lock, c.keep))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %s", c.lock, c.keep, err, c.want)
		}
	}
	_, err := config.Parse("x", []byte("repositories: {m: {dir: /x, object_lock: {mode: governance, days: 3}}}\n"))
	if err == nil || !strings.Contains(err.Error(), "is a folder, which has no object lock") {
		t.Error(err)
	}
	_, err = config.Parse("x", []byte(`repositories: {m: {s3: {endpoint: "https://s3.example.net", bucket: vms}, object_lock: {mode: governance}}}`))
	if err == nil || !strings.Contains(err.Error(), "no group uses the repository") {
		t.Error(err)
	}
}

// Days that do not follow the rules of keep are told of: both ways, and where nothing says
// for how long a point is kept.
func TestLockAgainstKeep(t *testing.T) {
	for _, c := range []struct{ lock, keep, want string }{
		{"{mode: governance}", "{daily: 14}", ""},
		{"{mode: governance, days: 14}", "{daily: 14}", ""},
		{"{mode: governance, days: 13}", "{daily: 14}", "the rules of group a keep restore points for up to 14 days, and object_lock locks for 13"},
		{"{mode: governance, days: 15}", "{daily: 14}", "only after their lock"},
		{"{mode: governance, days: 3}", "{last: 14}", ""},
		{"{mode: governance, days: 13}", "{weekly: 2}", "up to 14 days"},
	} {
		got, err := config.Parse("x", fmt.Appendf(nil, lockFile, c.lock, c.keep))
		if err != nil {
			t.Errorf("%s %s: %v", c.lock, c.keep, err)
			continue
		}
		if said := got.LockAgainstKeep("main"); c.want == "" && said != "" || !strings.Contains(said, c.want) {
			t.Errorf("%s %s: %q, want %q", c.lock, c.keep, said, c.want)
		}
		if said := got.LockAgainstKeep("other"); said != "" {
			t.Errorf("%s %s: of a repository without locks: %q", c.lock, c.keep, said)
		}
	}
	all := strings.Replace(lockFile, ", keep: %s", "", 1)
	got, err := config.Parse("x", fmt.Appendf(nil, all, "{mode: governance, days: 9}"))
	if err != nil {
		t.Fatal(err)
	}
	if said := got.LockAgainstKeep("main"); !strings.Contains(said, "group a keeps everything") {
		t.Errorf("without rules: %q", said)
	}
}
