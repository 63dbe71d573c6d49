package keys

import (
	"errors"
	"fmt"
	"strings"
)

// Roles is what a key may do, as a set.
type Roles uint8

const (
	// Backup: deduplicate, write and sign restore points; read nothing that is stored.
	Backup Roles = 1 << iota
	// Restore: read everything.
	Restore
	// Maintain: read maps, forget and prune; read no disk data.
	Maintain
	// Owner: all of that, and make and remove keys.
	Owner
)

// ErrRoles: a set of roles that no key has.
var ErrRoles = errors.New("no such role")

func roleNames() []string { return []string{"backup", "restore", "maintain", "owner"} }

// ParseRoles reads names of roles with commas between them.
func ParseRoles(s string) (r Roles, err error) {
	for name := range strings.SplitSeq(s, ",") {
		bit := Roles(0)
		for i, n := range roleNames() {
			if n == strings.TrimSpace(name) {
				bit = 1 << i
			}
		}
		if bit == 0 {
			return 0, fmt.Errorf("%w: %.40q", ErrRoles, name)
		}
		r |= bit
	}
	return r, nil
}

func (r Roles) String() string {
	var names []string
	for i, n := range roleNames() {
		if r&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// MarshalText writes the names of the roles.
func (r Roles) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *Roles) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRoles(string(b))
	return err
}

// Has tells whether one of the roles allows what a role of its own is for. The owner
// may do everything.
func (r Roles) Has(one Roles) bool { return r&(one|Owner) != 0 }
