package agent

import (
	"path"
	"strconv"
	"strings"
	"unicode"
)

// maxFileName leaves room for the endings that temporary names add.
const maxFileName = 200

// names picks file names for a restore. Paths come from a manifest: whatever
// they hold, a picked name is one plain component that stays in its folder.
type names struct{ taken map[string]bool }

func newNames() *names { return &names{taken: map[string]bool{}} }

// pick is the base name of was; where that is taken, label goes before it.
func (n *names) pick(was, label string) string {
	name := plain(path.Base(was))
	if name == "" {
		name = plain(label)
	}
	if name == "" {
		name = "disk"
	}
	choice := name
	for i := 0; n.taken[choice]; i++ {
		choice = plain(label) + "-" + name
		if i > 0 {
			choice = strconv.Itoa(i+1) + "-" + choice
		}
	}
	n.taken[choice] = true
	return choice
}

// plain makes s one harmless file name, or nothing.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r == unicode.ReplacementChar || unicode.IsControl(r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(s, "_"))
	s = strings.TrimLeft(s, ".-")
	if s == "_" { // what path.Base makes of "/"
		return ""
	}
	// The ending of a name says more than its start.
	if over := len(s) - maxFileName; over > 0 {
		s = strings.ToValidUTF8(s[over:], "")
	}
	return s
}
