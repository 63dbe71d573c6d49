package config

import (
	"fmt"

	"gopkg.in/yaml.v3"
)

// Deduplicate says whose blocks a backup builds on: those of all keys, for the zero value.
type Deduplicate struct {
	Own     bool     // only of the key that backs up
	Trusted []string // and of the keys with these labels
}

const deduplicateAdvice = "write own, all, or {trusted: [LABEL, ...]}"

// keys reads which key opens a repository.
func (s section) keys(r *Repository) {
	r.Key = s.label("key")
	r.KeyFile = s.file("key_file", "/etc/lull/key", false)
	if r.Key != "" && r.KeyFile != "" {
		s.p.problem(s.line("key_file"), s.what+" has both key and key_file", "keep key_file, which is one key's")
	}
	r.Padding = s.boolean("padding", false)
	if n, ok := s.get("deduplicate"); ok {
		r.Deduplicate = s.p.deduplicate(n, s.of("deduplicate"))
	}
}

// label reads the label of a key of a repository.
func (s section) label(key string) string {
	n, ok := s.get(key)
	if !ok {
		return ""
	}
	return s.p.label(n, s.of(key))
}

func (p *parser) label(n *yaml.Node, what string) string {
	v, ok := p.text(n, what)
	if ok && !validName(v) {
		p.problem(n.Line, fmt.Sprintf("%s is %s, no label of a key", what, quote(v)), "write one of `lull key list`")
		return ""
	}
	return v
}

func (p *parser) deduplicate(n *yaml.Node, what string) (d Deduplicate) {
	if n.Kind == yaml.MappingNode {
		s := p.section(n, n.Line, what, "trusted")
		for _, l := range s.list("trusted", deduplicateAdvice) {
			d.Trusted = append(d.Trusted, p.label(l, "a label in "+s.of("trusted")))
		}
		return d
	}
	v, ok := p.text(n, what)
	switch {
	case !ok || v == "all":
	case v == "own":
		d.Own = true
	default:
		p.problem(n.Line, fmt.Sprintf("%s is %s", what, quote(v)), deduplicateAdvice)
	}
	return d
}
