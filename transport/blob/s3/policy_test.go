package s3

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/lock"
	"github.com/lull-backup/lull/transport/blob/probe"
	"github.com/lull-backup/lull/transport/blob/s3/policy"
	"github.com/lull-backup/lull/transport/blob/s3/s3test"
)

// kinds are the folders of a repository.
func kinds() []string {
	return []string{
		"config", "keys/k", "epochs/1", "packs/aa/p", "index/i", "points/vm/p", "sessions/vm.p", "marks/m", "leases/prune/1",
		"quarantine/q", "forgotten/f", "revoked/r", "holds/vm.p", "probe/x",
	}
}

// roleTest is what a role may do to objects, by kind; all may read and list.
type roleTest struct {
	create, remove string // names separated by spaces
}

func roleTests() map[policy.Role]roleTest {
	return map[policy.Role]roleTest{
		policy.Backup:  {"packs/aa/p index/i points/vm/p sessions/vm.p probe/x", "probe/x"},
		policy.Restore: {"", ""},
		policy.Maintain: {
			"packs/aa/p index/i points/vm/p sessions/vm.p marks/m leases/prune/1 quarantine/q forgotten/f revoked/r holds/vm.p probe/x",
			"packs/aa/p index/i points/vm/p sessions/vm.p marks/m leases/prune/1 quarantine/q holds/vm.p probe/x",
		},
		policy.Owner: {strings.Join(kinds(), " "), strings.Join(kinds(), " ")},
	}
}

// roleServer is a server whose users are the roles. One role's policy is in force at a
// time: versitygw has no room for more.
type roleServer struct {
	*s3test.Server
	config Config
	o      s3test.Options
	files  map[policy.Role]string // of credentials
	root   *Store
}

func startRoles(t *testing.T, o s3test.Options) *roleServer {
	t.Helper()
	o.Users = true
	s := &roleServer{Server: s3test.StartWith(t, o), o: o, files: map[policy.Role]string{}}
	s.config = configOf(s.Server)
	s.config.Prefix = "deep/er/"
	s.root = openStore(t, s.config)
	for _, r := range policy.Roles() {
		s.files[r] = s.AddUser(t, string(r))
	}
	return s
}

// as opens the store as a role, whose policy is in force from now on.
func (s *roleServer) as(t *testing.T, r policy.Role) *Store {
	t.Helper()
	d, err := policy.For(r, policy.Options{Bucket: s.Bucket, Prefix: s.config.Prefix, Lock: s.o.Locks, Principal: string(r)})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	s.SetPolicy(t, string(text))
	c := s.config
	c.CredentialsFile = s.files[r]
	return openStore(t, c)
}

// want holds the outcome of one operation against what the role may do.
func want(t *testing.T, what string, allowed bool, err error) {
	t.Helper()
	if allowed && err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if !allowed && !errors.Is(err, blob.ErrDenied) {
		t.Errorf("%s: %v, want it denied", what, err)
	}
}

func TestPoliciesHold(t *testing.T) {
	for what, o := range map[string]s3test.Options{"plain": {}, "versions": {Versions: true}, "locks": {Locks: true}} {
		t.Run(what, func(t *testing.T) {
			server := startRoles(t, o)
			root := server.root
			for role, may := range roleTests() {
				t.Run(string(role), func(t *testing.T) {
					s := server.as(t, role)
					creates, removes := strings.Fields(may.create), strings.Fields(may.remove)
					for _, name := range kinds() {
						err := s.Create(t.Context(), name, []byte(name))
						want(t, "create "+name, has(creates, name), err)
						if err != nil {
							if err := root.Create(t.Context(), name, []byte(name)); err != nil {
								t.Fatal(err)
							}
						}
						if got, err := s.Read(t.Context(), name, 0, -1); err != nil || string(got) != name {
							t.Errorf("read %s: %q, %v", name, got, err)
						}
						if _, err := s.Stat(t.Context(), name); err != nil {
							t.Errorf("stat %s: %v", name, err)
						}
					}
					if err := s.List(t.Context(), "", func(blob.Info) error { return nil }); err != nil {
						t.Errorf("list: %v", err)
					}
					if _, err := s.Locking(t.Context()); err != nil {
						t.Errorf("look at the bucket: %v", err)
					}
					for _, name := range kinds() {
						want(t, "delete "+name, has(removes, name), s.Delete(t.Context(), name))
						if err := root.Delete(t.Context(), name); err != nil {
							t.Fatal(err)
						}
					}
					outside(t, server.Server, role)
				})
			}
		})
	}
}

func has(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// outside: nobody but the administrator gets at what lies beside the prefix, at the
// bucket's settings, or around a lock.
func outside(t *testing.T, server *s3test.Server, role policy.Role) {
	t.Helper()
	c := server.Client(t, string(role), "secret-of-"+string(role))
	ctx := t.Context()
	_, put := c.PutObject(ctx, server.Bucket, "elsewhere/x", strings.NewReader("x"), 1, minio.PutObjectOptions{})
	_, err := c.StatObject(ctx, server.Bucket, "elsewhere/x", minio.StatObjectOptions{})
	var list error
	for o := range c.ListObjectsIter(ctx, server.Bucket, minio.ListObjectsOptions{Prefix: "elsewhere/"}) {
		list = o.Err
	}
	for what, err := range map[string]error{
		"put": put, "stat": err, "list": list, "policy": c.SetBucketPolicy(ctx, server.Bucket, ""),
		"versions": c.SuspendVersioning(ctx, server.Bucket), "default retention": c.SetObjectLockConfig(ctx, server.Bucket, nil, nil, nil),
	} {
		if sentinel(err) != blob.ErrDenied {
			t.Errorf("%s beside the prefix: %v, want it denied", what, err)
		}
	}
}

// A thief with a host's credential, and any program he likes, writes over what is
// there and cannot do worse: the owner brings everything back.
func TestStolenBackupCredential(t *testing.T) {
	for what, o := range map[string]s3test.Options{"versions": {Versions: true}, "locks": {Locks: true}} {
		t.Run(what, func(t *testing.T) {
			server := startRoles(t, o)
			backup := server.as(t, policy.Backup)
			var writer blob.Store = backup
			if o.Locks {
				writer = lock.New(backup, lock.Policy{Mode: blob.Governance, Period: time.Hour})
			}
			if err := writer.Create(t.Context(), "packs/aa/p", []byte("precious")); err != nil {
				t.Fatal(err)
			}
			thief := server.Client(t, "backup", "secret-of-backup")
			object, ctx := "deep/er/packs/aa/p", t.Context()
			info, err := thief.StatObject(ctx, server.Bucket, object, minio.StatObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, attack := range []minio.RemoveObjectOptions{
				{}, {VersionID: info.VersionID}, {GovernanceBypass: true}, {VersionID: info.VersionID, GovernanceBypass: true},
			} {
				if err := thief.RemoveObject(ctx, server.Bucket, object, attack); err == nil {
					t.Errorf("%+v: deleted", attack)
				}
			}
			soon, mode := time.Now().Add(time.Second), minio.Governance
			err = thief.PutObjectRetention(ctx, server.Bucket, object, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &soon, GovernanceBypass: true})
			if err == nil {
				t.Error("made a lock shorter")
			}
			if _, err := thief.PutObject(ctx, server.Bucket, object, strings.NewReader("forged"), 6, minio.PutObjectOptions{}); err != nil {
				t.Fatalf("a plain PUT, which only AWS can refuse: %v", err)
			}
			if err := server.as(t, policy.Maintain).Reveal(ctx, "packs/aa/p"); err != nil {
				t.Fatal(err)
			}
			if got, err := server.as(t, policy.Restore).Read(ctx, "packs/aa/p", 0, -1); err != nil || string(got) != "precious" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// With locks, even a stolen credential of maintenance deletes nothing before its time.
func TestStolenMaintainCredential(t *testing.T) {
	server := startRoles(t, s3test.Options{Locks: true})
	for _, mode := range []blob.LockMode{blob.Governance, blob.Compliance} {
		name := "packs/aa/" + string(mode)
		s := lock.New(server.as(t, policy.Backup), lock.Policy{Mode: mode, Period: time.Hour})
		if err := s.Create(t.Context(), name, []byte("precious")); err != nil {
			t.Fatal(err)
		}
		if err := server.as(t, policy.Maintain).Delete(t.Context(), name); !errors.Is(err, blob.ErrLocked) {
			t.Errorf("%s: %v", mode, err)
		}
		thief := server.Client(t, "maintain", "secret-of-maintain")
		info, err := thief.StatObject(t.Context(), server.Bucket, "deep/er/"+name, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		err = thief.RemoveObject(t.Context(), server.Bucket, "deep/er/"+name, minio.RemoveObjectOptions{VersionID: info.VersionID, GovernanceBypass: true})
		if err == nil {
			t.Errorf("%s: a lock was bypassed", mode)
		}
	}
}

// Every role may probe what its rights let it find out, and is told so of the rest.
func TestProbeByRole(t *testing.T) {
	server := startRoles(t, s3test.Options{Locks: true})
	for _, role := range policy.Roles() {
		r, err := probe.Run(t.Context(), server.as(t, role), probe.Options{})
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		f, _ := r.Finding("conditional put")
		wantVerdict := probe.OK
		if role == policy.Restore {
			wantVerdict = probe.Unknown
		}
		if r.Err() != nil || r.Warnings() != nil || r.Left != nil || f.Verdict != wantVerdict {
			t.Errorf("%s: %v, %+v, left %q, %+v", role, r.Err(), r.Warnings(), r.Left, f)
		}
	}
}
