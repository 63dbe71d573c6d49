package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot/space"
)

// Deltas is where the deltas of VMs go, and how they are removed.
type Deltas struct {
	Dir  string // empty: beside each image
	Wipe bool   // their blocks are overwritten before
}

func deltaKeys() []string { return []string{"delta_dir", "wipe_deltas"} }

// deltaDir is a folder for deltas, to be held against the rest of the file.
type deltaDir struct {
	line int
	path string
	what string
}

func (s section) deltas() Deltas {
	d := Deltas{Dir: s.path("delta_dir", "/srv/deltas"), Wipe: s.boolean("wipe_deltas", false)}
	if d.Dir != "" {
		s.p.deltaDirs = append(s.p.deltaDirs, deltaDir{s.line("delta_dir"), d.Dir, s.of("delta_dir")})
	}
	return d
}

// apart refuses a folder for deltas within a repository.
func (p *parser) apart(c *Config) {
	for _, d := range p.deltaDirs {
		for _, r := range c.Repositories {
			if r.Dir != "" && (d.path == r.Dir || strings.HasPrefix(d.path, strings.TrimSuffix(r.Dir, "/")+"/")) {
				p.problem(d.line, fmt.Sprintf("%s is in the folder of repository %s", d.what, quote(r.Name)), "choose a folder of its own, such as "+filepath.Join("/var/lib/lull", "deltas"))
			}
		}
	}
}

// space reads the lines that deltas must not cross.
func (s section) space() space.Limits {
	n, ok := s.get("space")
	if !ok {
		return space.Limits{}
	}
	line, what := s.line("space"), s.of("space")
	l := s.p.section(n, line, what, "free", "delta")
	out := space.Limits{Free: l.pair("free"), Delta: l.pair("delta")}
	if err := out.Check(); err != nil {
		s.p.problem(line, what+": "+err.Error(), "exchange the two")
	}
	return out
}

func (s section) pair(key string) space.Pair {
	n, ok := s.get(key)
	if !ok {
		return space.Pair{}
	}
	l := s.p.section(n, s.line(key), s.of(key), "soft", "hard")
	return space.Pair{Soft: l.amount("soft"), Hard: l.amount("hard")}
}

// amount reads bytes with their unit, or a share.
func (s section) amount(key string) space.Amount {
	n, ok := s.get(key)
	if !ok || reported(n) {
		return space.Amount{}
	}
	a, err := space.ParseAmount(n.Value)
	if err != nil {
		s.p.problem(n.Line, fmt.Sprintf("%s is %s", s.of(key), describe(n)), "write an amount with its unit, such as 20GiB, or a share from 1% to 100%")
	}
	return a
}

// WipesDeltas tells whether the deltas of the VM host/name are overwritten before they
// are removed: its own word, that of its host, or that of one of its groups suffices. A VM
// that is not known here, or not any more, is in the groups that it may be in: rather too
// much is overwritten than too little.
func (c *Config) WipesDeltas(vm string) bool {
	host, name, _ := strings.Cut(vm, "/")
	listed := slices.Contains(c.VMs(), vm)
	for _, g := range c.Groups {
		if g.WipeDeltas && (slices.Contains(g.VMs, vm) || !listed && g.mayHold(host, name)) {
			return true
		}
	}
	for _, h := range c.Hosts {
		if h.Name != host {
			continue
		}
		if h.Deltas.Wipe {
			return true
		}
		for _, v := range h.QEMU {
			if v.Name == name {
				return v.Deltas.Wipe
			}
		}
	}
	return false
}
