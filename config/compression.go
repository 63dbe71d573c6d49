package config

import (
	"fmt"
	"slices"
	"strings"
)

// compression reads how hard backups compress; empty: not said.
func (s section) compression() string {
	v, line := s.text("compression")
	known := []string{"auto", "fast", "best"}
	if v != "" && !slices.Contains(known, v) {
		s.p.problem(line, fmt.Sprintf("%s is %s", s.of("compression"), quote(v)), "write one of "+strings.Join(known, ", "))
		return ""
	}
	return v
}
