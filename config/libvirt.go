package config

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// DefaultLibvirt is the URI of a libvirt host that names none.
const DefaultLibvirt = "qemu:///system"

// tagPrefix begins a pattern that is held against tags.
const tagPrefix = "tag:"

// Libvirt is a daemon of libvirt on this host, and which of its domains are VMs here.
type Libvirt struct {
	URI string
	// VMs are patterns over the names and tags of domains; empty: all. Exclude are those
	// of domains that are left out all the same.
	VMs, Exclude []string
}

// FoundVM is a VM that a host has told of, not the file.
type FoundVM struct {
	Name string
	Tags []string // what its administrator says of it there
}

// ValidVM tells whether a VM of that name can be backed up: it has to be typed back, in the
// places where @ begins a restore point and / a VM of a host.
func ValidVM(name string) bool {
	plain := func(r rune) bool { return unicode.IsPrint(r) && r != unicode.ReplacementChar }
	return name != "" && len(name) <= MaxName && !strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) &&
		!strings.ContainsAny(name, "@/*?[]\\") && name[0] != '-' && name[0] != '.' && !strings.HasPrefix(name, tagPrefix)
}

func (p *parser) libvirt(h *Host, n *yaml.Node, line int, what string) *Libvirt {
	s := p.section(n, line, what, append([]string{"uri", "vms", "exclude", "space"}, deltaKeys()...)...)
	h.Deltas, h.Space = s.deltas(), s.space()
	l := &Libvirt{URI: s.uri(), VMs: s.domains("vms"), Exclude: s.domains("exclude")}
	if other, taken := p.sockets[l.URI]; taken {
		p.problem(line, what+" is also the "+other, "keep one: a domain belongs to one host of this file")
	}
	p.sockets[l.URI] = what
	return l
}

// uri reads which daemon is asked. A file that names another machine is refused here,
// where its line can be told.
func (s section) uri() string {
	text, line := s.text("uri")
	if text == "" {
		return DefaultLibvirt
	}
	if regexp.MustCompile(`^qemu(\+unix)?:///(system|session)(\?socket=(/|%2[fF])[^&?#]*)?$`).MatchString(text) {
		return text
	}
	advice := "write qemu:///system, qemu:///session or qemu+unix:///system?socket=/PATH"
	if u, err := url.Parse(text); err == nil && (u.Host != "" || strings.Contains(u.Scheme, "+")) {
		s.p.problem(line, s.of("uri")+" leads to another host, whose disks cannot be read from here", "run lull's agent on that host, with qemu:///system")
		return ""
	}
	s.p.problem(line, fmt.Sprintf("%s is %s, no URI of QEMU on this host", s.of("uri"), quote(text)), advice)
	return ""
}

// domains reads patterns over names and tags.
func (s section) domains(key string) []string {
	const advice = `write shell patterns over the names of domains, or tag:PATTERN over their tags, such as ["web*", "tag:nightly"]`
	if _, ok := s.get(key); !ok {
		return nil
	}
	var patterns []string
	for _, n := range s.list(key, advice) {
		pattern, ok := s.p.text(n, "a pattern of "+s.what)
		if !ok {
			continue
		}
		if _, err := path.Match(pattern, ""); err != nil || strings.Contains(pattern, "/") {
			s.p.problem(n.Line, fmt.Sprintf("%s in %s is no pattern", quote(pattern), s.what), advice)
			continue
		}
		patterns = append(patterns, pattern)
	}
	return patterns
}

// serves tells whether a domain is a VM of the host.
func (l *Libvirt) serves(vm FoundVM) bool {
	any := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, "", vm) })
	}
	return ValidVM(vm.Name) && (len(l.VMs) == 0 || any(l.VMs)) && !any(l.Exclude)
}

// Discovers tells whether a host of the file knows VMs that the file does not.
func (c *Config) Discovers() bool {
	return slices.ContainsFunc(c.Hosts, func(h Host) bool { return h.Libvirt != nil })
}

// With is the configuration with the VMs that a host has found, those of them that it serves.
// Groups have the VMs then that their patterns match. A VM that two groups would keep by
// different rules stays with the first, by name, and a warning says so.
func (c *Config) With(host string, found []FoundVM) *Config {
	next := *c
	next.Hosts = slices.Clone(c.Hosts)
	i := slices.IndexFunc(next.Hosts, func(h Host) bool { return h.Name == host && h.Libvirt != nil })
	if i < 0 {
		return c
	}
	h := &next.Hosts[i]
	h.Found = nil
	for _, vm := range found {
		if h.Libvirt.serves(vm) {
			h.Found = append(h.Found, vm)
		}
	}
	next.Warnings, next.Groups = slices.Clone(c.Warnings), slices.Clone(c.Groups)
	next.regroup()
	return &next
}

// regroup gives groups the VMs that their patterns match now.
func (c *Config) regroup() {
	owner := map[string]Group{} // by repository and VM
	for i := range c.Groups {
		g := &c.Groups[i]
		var vms []string
		for _, pattern := range g.Patterns {
			vms = append(vms, c.Match(pattern)...)
		}
		slices.Sort(vms)
		g.VMs = slices.DeleteFunc(slices.Compact(vms), func(vm string) bool {
			first, taken := owner[g.Repository+" "+vm]
			if !taken {
				owner[g.Repository+" "+vm] = *g
			}
			if !taken || first.Keep == g.Keep {
				return false
			}
			c.Warnings = append(c.Warnings, Problem{File: c.Path,
				What:    fmt.Sprintf("VM %s is in the groups %s and %s, which keep its points in repository %s by different rules: %s leaves it out", vm, first.Name, g.Name, g.Repository, g.Name),
				Instead: "give both the same keep, or narrow the patterns of one"})
			return true
		})
	}
}
