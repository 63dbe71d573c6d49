package policy

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocument: docs/s3-policies.md shows the policies that lull writes.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/s3-policies.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != len(Roles())+1 {
		t.Fatalf("%d blocks of JSON", len(blocks))
	}
	o := Options{Bucket: "vms", Prefix: "lull/", Lock: true, LockDays: 34}
	for i, r := range Roles() {
		want, err := For(r, o)
		if err != nil {
			t.Fatal(err)
		}
		var got Document
		if err := json.Unmarshal([]byte(blocks[i][1]), &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-lull +docs):\n%s", r, d)
		}
	}
	o.AWS = true
	aws, err := For(Backup, o)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []Statement
	for _, s := range aws.Statement {
		if s.Effect == "Deny" {
			want = append(want, s)
		}
	}
	if err := json.Unmarshal([]byte(blocks[len(Roles())][1]), &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("AWS (-lull +docs):\n%s", d)
	}
}

// TestNobodyBypasses: no role can undo a lock, or change the bucket.
func TestNobodyBypasses(t *testing.T) {
	for _, r := range Roles() {
		d, err := For(r, Options{Bucket: "b", Lock: true, AWS: true, LockDays: 3, Principal: "someone"})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range d.Statement {
			for _, a := range s.Action {
				if s.Effect == "Allow" && (strings.Contains(a, "*") || strings.Contains(a, "Bypass") || strings.HasPrefix(a, "s3:PutBucket") || strings.HasPrefix(a, "s3:DeleteBucket")) {
					t.Errorf("%s may %s", r, a)
				}
			}
			if s.Principal == nil || len(s.Principal.AWS) != 1 {
				t.Errorf("%s: a statement is for %v", s.Sid, s.Principal)
			}
		}
	}
}

func TestNoSuchRole(t *testing.T) {
	if _, err := For("boss", Options{}); !errors.Is(err, ErrRole) {
		t.Error(err)
	}
}
