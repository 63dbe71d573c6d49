package repo

import (
	"fmt"

	"github.com/lull-backup/lull/transport/repo/internal/keys"
)

// Roles is what a key may do, as a set.
type Roles = keys.Roles

// The roles of keys.
const (
	RoleBackup   = keys.Backup   // deduplicate, write and sign; read nothing that is stored
	RoleRestore  = keys.Restore  // read everything
	RoleMaintain = keys.Maintain // read maps, forget and prune; read no disk data
	RoleOwner    = keys.Owner    // all of that, and make and remove keys
)

// ParseRoles reads names of roles with commas between them.
func ParseRoles(s string) (Roles, error) { return keys.ParseRoles(s) }

// Roles is what the key may do that opened the repository.
func (r *Repository) Roles() Roles { return r.ring.Roles() }

// Label is that of the key that opened the repository; "" where keys have none.
func (r *Repository) Label() string {
	if c := r.ring.Certificate(); c != nil {
		return c.Label
	}
	return ""
}

// signer is the key that opened the repository as Key.Signer has it, empty for format 1.
func (r *Repository) signer() string {
	if c := r.ring.Certificate(); c != nil {
		return c.Signer.String()
	}
	return ""
}

// Made tells whether the very key that opened the repository has made a point, and was not
// removed since. A label does not tell: it may be that of a removed key.
func (r *Repository) Made(p *Point) bool { return p.Signer == r.signer() && r.trust.knows(p.Signer) }

// believes tells whether what a key says in a point counts as much as what the key says that
// opened the repository. One that maintains can delete everything anyway.
func (r *Repository) believes(c *keys.Certificate) bool {
	if c == nil {
		return true
	}
	return r.trust.holds(c.Signer) && (c.Signer.String() == r.signer() || c.Roles.Has(RoleMaintain))
}

// roleError is what the key that opened the repository may not do.
type roleError struct {
	what  string
	label string
	has   Roles
	need  Roles
}

func (e *roleError) Error() string {
	who := "this key"
	if e.label != "" {
		who = "key " + e.label
	}
	return fmt.Sprintf("%s may not %s: its role is %s", who, e.what, e.has)
}

func (e *roleError) Unwrap() error { return ErrRole }

// Hint is the next step for the administrator.
func (e *roleError) Hint() string {
	return fmt.Sprintf("use a key with the role %s, see lull key list", e.need)
}

// Allow fails with ErrRole unless the key that opened the repository has a role, for what
// is to be done; with ErrReadOnly where that would write into a repository of an old
// format.
func (r *Repository) Allow(role Roles, what string) error {
	if role != RoleRestore && !r.ring.Format().Signed() {
		return &readOnlyError{what}
	}
	if !r.ring.Roles().Has(role) {
		return &roleError{what: what, label: r.Label(), has: r.ring.Roles(), need: role}
	}
	if role != RoleRestore && r.ring.Certificate() == nil {
		return &paperError{what}
	}
	return nil
}

// readOnlyError is what cannot be done with a repository of an old format.
type readOnlyError struct{ what string }

func (e *readOnlyError) Error() string { return fmt.Sprintf("%v: cannot %s", ErrReadOnly, e.what) }
func (e *readOnlyError) Unwrap() error { return ErrReadOnly }

// Hint is the next step for the administrator.
func (e *readOnlyError) Hint() string { return "move it into a new repository with lull copy" }

// paperError is what cannot be done with a key that has no file in the repository.
type paperError struct{ what string }

func (e *paperError) Error() string { return fmt.Sprintf("a paper key may not %s", e.what) }
func (e *paperError) Unwrap() error { return ErrRole }

// Hint is the next step for the administrator.
func (e *paperError) Hint() string {
	return "make a key with it: lull key add NAME --role owner --paper-file FILE"
}
