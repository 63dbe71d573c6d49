// Package policy writes down what an S3 store must let each role of a repository do,
// and no more, as policies in the language of AWS. docs/s3-policies.md shows them;
// the tests of package s3 hold a real server to them.
//
// The roles are those of the repository's keys, but here it is the server that holds
// them to it: what a policy does not allow cannot be done with a stolen credential,
// whatever program uses it.
package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Role is who a policy is for.
type Role string

const (
	Backup   Role = "backup"
	Restore  Role = "restore"
	Maintain Role = "maintain"
	Owner    Role = "owner" // makes the repository, its keys and epochs
)

// Roles are all roles.
func Roles() []Role { return []Role{Backup, Restore, Maintain, Owner} }

// ErrRole: there is no such role.
var ErrRole = errors.New("no such role")

// Options say where, and what the store is able to do.
type Options struct {
	Bucket string
	Prefix string // as in the configuration: empty, or with a slash at its end
	// Lock: objects are locked, and the role may lock them, never unlock them.
	Lock bool
	// LockDays bounds how long, with AWS; 0: no bound.
	LockDays int
	// AWS adds conditions that AWS alone knows; other stores refuse such a policy.
	AWS bool
	// Principal makes the policy one of a bucket, for that user; empty: it is one
	// of a user, to be attached to it.
	Principal string
}

// Document is a policy.
type Document struct {
	Version   string
	Statement []Statement
}

// Statement allows, or denies, some actions on some resources.
type Statement struct {
	Sid       string
	Effect    string
	Principal *Principal `json:",omitempty"`
	Action    []string
	Resource  []string
	Condition map[string]map[string][]string `json:",omitempty"`
}

// Principal is the users that a bucket's statement is about.
type Principal struct{ AWS []string }

// rights are the kinds of objects that a role may create, delete, and lock.
type rights struct {
	create, remove, lock []string
	versions             bool // may look at older versions, to undelete
}

func rightsOf(r Role) (rights, error) {
	locked := []string{"packs/*", "index/*", "points/*", "probe/*"} // the probe tries locks
	backup := append(slices.Clone(locked), "sessions/*")
	maintain := append(slices.Clone(backup), "marks/*", "leases/*", "quarantine/*", "holds/*")
	notes := []string{"forgotten/*", "revoked/*"} // that maintenance adds, and nobody takes back
	switch r {
	case Backup:
		return rights{create: backup, remove: []string{"probe/*"}, lock: locked}, nil
	case Restore:
		return rights{}, nil
	case Maintain:
		return rights{
			create: slices.Concat(maintain, notes), remove: maintain,
			lock: slices.Concat(locked, notes, []string{"config", "keys/*", "epochs/*"}), versions: true,
		}, nil
	case Owner:
		return rights{create: []string{"*"}, remove: []string{"*"}, lock: []string{"*"}, versions: true}, nil
	}
	return rights{}, fmt.Errorf("%w: %q", ErrRole, r)
}

// For is the policy of a role.
func For(r Role, o Options) (Document, error) {
	has, err := rightsOf(r)
	if err != nil {
		return Document{}, err
	}
	d := Document{Version: "2012-10-17", Statement: []Statement{o.list(has.versions), o.look(), o.read(has.versions)}}
	if len(has.create) > 0 {
		d.add(o.allow("Create", o.objects(has.create), "s3:PutObject"))
	}
	if len(has.remove) > 0 {
		d.add(o.allow("Delete", o.objects(has.remove), "s3:DeleteObject", "s3:DeleteObjectVersion"))
	}
	if o.Lock {
		d.add(o.allow("SeeLocks", o.objects([]string{"*"}), "s3:GetObjectRetention"))
	}
	if o.Lock && len(has.lock) > 0 {
		d.add(o.allow("Lock", o.objects(has.lock), "s3:PutObjectRetention"))
	}
	if o.AWS {
		d.add(o.awsOnly(r)...)
	}
	for i := range d.Statement {
		d.Statement[i].Sid = strings.ToUpper(string(r[:1])) + string(r[1:]) + d.Statement[i].Sid
		if o.Principal != "" {
			d.Statement[i].Principal = &Principal{AWS: []string{o.Principal}}
		}
	}
	return d, nil
}

func (d *Document) add(s ...Statement) { d.Statement = append(d.Statement, s...) }

func (o Options) bucket() []string { return []string{"arn:aws:s3:::" + o.Bucket} }

func (o Options) objects(kinds []string) []string {
	var out []string
	for _, k := range kinds {
		out = append(out, "arn:aws:s3:::"+o.Bucket+"/"+o.Prefix+k)
	}
	return out
}

func (o Options) allow(sid string, resources []string, actions ...string) Statement {
	return Statement{Sid: sid, Effect: "Allow", Action: actions, Resource: resources}
}

func (o Options) list(versions bool) Statement {
	s := o.allow("List", o.bucket(), "s3:ListBucket")
	if versions {
		s.Action = append(s.Action, "s3:ListBucketVersions")
	}
	if o.Prefix != "" {
		s.Condition = map[string]map[string][]string{"StringLike": {"s3:prefix": {o.Prefix + "*"}}}
	}
	return s
}

// look is for `lull doctor` and the probe.
func (o Options) look() Statement {
	return o.allow("LookAtBucket", o.bucket(), "s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration")
}

// read is of all objects, for every role: what they hold is sealed, and a backup
// looks at the very object that it wrote when the reply to its PUT was lost.
func (o Options) read(versions bool) Statement {
	s := o.allow("Read", o.objects([]string{"*"}), "s3:GetObject")
	if versions {
		s.Action = append(s.Action, "s3:GetObjectVersion")
	}
	return s
}

// awsOnly are conditions on keys that no other store knows.
func (o Options) awsOnly(r Role) []Statement {
	deny := func(sid string, condition map[string]map[string][]string, actions ...string) Statement {
		return Statement{Sid: sid, Effect: "Deny", Action: actions, Resource: o.objects([]string{"*"}), Condition: condition}
	}
	out := []Statement{deny("OnlyEncrypted", map[string]map[string][]string{"Bool": {"aws:SecureTransport": {"false"}}}, "s3:*")}
	if r == Backup {
		out = append(out, deny("NeverOverwrite", map[string]map[string][]string{"Null": {"s3:if-none-match": {"true"}}}, "s3:PutObject"))
	}
	if o.Lock && o.LockDays > 0 && r != Restore {
		out = append(out, deny("NoEndlessLocks", map[string]map[string][]string{
			"NumericGreaterThan": {"s3:object-lock-remaining-retention-days": {fmt.Sprint(o.LockDays)}},
		}, "s3:PutObject", "s3:PutObjectRetention"))
	}
	return out
}

// JSON is the policy as stores take it.
func (d Document) JSON() ([]byte, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(d); err != nil {
		return nil, fmt.Errorf("encode policy: %w", err)
	}
	return []byte(b.String()), nil
}
