package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// entry is one key of a mapping.
type entry struct{ key, value *yaml.Node }

// section is a mapping under way. Its readers report what is wrong with a value
// and return the zero value then.
type section struct {
	p       *parser
	at      int    // line of the key that it belongs to
	what    string // such as: group "nightly"
	ok      bool   // it is a mapping
	entries []entry
}

// names reads a mapping with keys of the administrator's choice.
func (p *parser) names(n *yaml.Node, line int, kind string) section {
	s := p.mapping(n, line, plural(kind))
	if s.ok && len(n.Content) == 0 {
		p.problem(line, plural(kind)+" is empty", "name at least one "+kind)
	}
	return s
}

func plural(kind string) string {
	if kind == "repository" {
		return "repositories"
	}
	return kind + "s"
}

// section reads a mapping with the given keys and no others.
func (p *parser) section(n *yaml.Node, line int, what string, known ...string) section {
	s := p.mapping(n, line, what)
	s.entries = slices.DeleteFunc(s.entries, func(e entry) bool {
		if slices.Contains(known, e.key.Value) {
			return false
		}
		p.unknown(e.key, what, known)
		return true
	})
	return s
}

// mapping refuses what is none, and keys that come twice.
func (p *parser) mapping(n *yaml.Node, line int, what string) section {
	s := section{p: p, at: line, what: what}
	if n.Kind != yaml.MappingNode {
		if !reported(n) {
			p.problem(line, fmt.Sprintf("%s is %s", what, describe(n)), "write keys and values under it")
		}
		return s
	}
	s.ok = true
	first := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			if !reported(key) {
				p.problem(key.Line, fmt.Sprintf("a key of %s is %s", what, describe(key)), "write one word, followed by a colon")
			}
			continue
		}
		if mergeKey(key) {
			continue // plain has refused it
		}
		if before, twice := first[key.Value]; twice {
			p.problem(key.Line, fmt.Sprintf("%s stands in %s twice, first on line %d", quote(key.Value), what, before), "remove one of them")
			continue
		}
		first[key.Value] = key.Line
		s.entries = append(s.entries, entry{key, value})
	}
	return s
}

func (p *parser) unknown(key *yaml.Node, what string, known []string) {
	if advice, secret := secretAdvice(key.Value); secret {
		p.problem(key.Line, fmt.Sprintf("%s in %s is a secret, which does not belong in this file", quote(key.Value), what), advice)
		return
	}
	advice := "remove it; known here: " + strings.Join(known, ", ")
	if near := nearest(key.Value, known); near != "" {
		advice = "write " + near
	}
	p.problem(key.Line, fmt.Sprintf("unknown key %s in %s", quote(key.Value), what), advice)
}

// secretAdvice tells keys under which people put secrets.
func secretAdvice(key string) (string, bool) {
	switch strings.ReplaceAll(strings.ToLower(key), "-", "_") {
	case "passphrase", "password":
		return "write it into a file of mode 600 and name that with passphrase_file", true
	case "secret", "secret_key", "access_key", "access_key_id", "secret_access_key", "session_token", "aws_access_key_id", "aws_secret_access_key", "credentials":
		return "write it into a file of mode 600 in the AWS form and name that with credentials_file", true
	}
	return "", false
}

func (s section) get(key string) (*yaml.Node, bool) {
	for _, e := range s.entries {
		if e.key.Value == key {
			return e.value, true
		}
	}
	return nil, false
}

// need is get for a key that must be there.
func (s section) need(key, advice string) (*yaml.Node, bool) {
	n, ok := s.get(key)
	if !ok && s.ok {
		s.p.problem(s.at, fmt.Sprintf("%s has no %s", s.what, key), advice)
	}
	return n, ok
}

// line is where a key stands.
func (s section) line(key string) int {
	for _, e := range s.entries {
		if e.key.Value == key {
			return e.key.Line
		}
	}
	return s.at
}

// of names a key of the section.
func (s section) of(key string) string { return key + " of " + s.what }

// text reads a key's text; empty when it is not there.
func (s section) text(key string) (string, int) {
	n, ok := s.get(key)
	if !ok {
		return "", s.at
	}
	v, _ := s.p.text(n, s.of(key))
	return v, n.Line
}

// path reads an absolute path. It is not shown when it is wrong: people paste a
// secret where its file belongs.
func (s section) path(key, example string) string {
	v, line := s.text(key)
	if v == "" {
		return ""
	}
	if !strings.HasPrefix(v, "/") {
		s.p.problem(line, s.of(key)+" is no absolute path", "begin it with /, such as "+example)
		return ""
	}
	return filepath.Clean(v)
}

// maxTexts bounds lists: of paths, of arguments and of variables of the environment.
const maxTexts = 64

// texts reads a list of texts.
func (s section) texts(key, advice string) []string {
	var out []string
	for _, n := range s.list(key, advice) {
		if v, ok := s.p.text(n, "an entry of "+s.of(key)); ok {
			out = append(out, v)
		}
	}
	if len(out) > maxTexts {
		s.p.problem(s.line(key), fmt.Sprintf("%s has %d entries, at most %d are allowed", s.of(key), len(out), maxTexts), "shorten it")
	}
	return out
}

// paths reads a list of absolute paths; nil when it is not there.
func (s section) paths(key, advice string) []string {
	if _, ok := s.get(key); !ok {
		return nil
	}
	paths := s.texts(key, advice)
	for i, path := range paths {
		if !strings.HasPrefix(path, "/") {
			s.p.problem(s.line(key), fmt.Sprintf("%s has %s, which is no absolute path", s.of(key), quote(path)), "begin it with /")
		}
		paths[i] = filepath.Clean(path)
	}
	return paths
}

// integer reads a decimal number; absent when the key is not there.
func (s section) integer(key string, low, high, absent int) int {
	n, ok := s.get(key)
	if !ok || reported(n) {
		return absent
	}
	advice := fmt.Sprintf("write a number from %d to %d", low, high)
	if n.Kind != yaml.ScalarNode || !plainNumber(n.Value) || n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		s.p.problem(n.Line, fmt.Sprintf("%s is %s", s.of(key), describeNumber(n)), advice)
		return absent
	}
	v, err := strconv.Atoi(n.Value)
	if err != nil || v < low || v > high {
		s.p.problem(n.Line, fmt.Sprintf("%s is %s, out of range", s.of(key), clip(n.Value)), advice)
		return absent
	}
	return v
}

// plainNumber takes decimal digits, perhaps negative, and no leading zero:
// YAML 1.1 takes 017 for fifteen.
func plainNumber(s string) bool {
	d := strings.TrimPrefix(s, "-")
	return d != "" && strings.Trim(d, "0123456789") == "" && (d[0] != '0' || d == "0")
}

// boolean takes true and false only.
func (s section) boolean(key string, absent bool) bool {
	n, ok := s.get(key)
	if !ok || reported(n) {
		return absent
	}
	if n.Kind == yaml.ScalarNode && n.Style == 0 {
		switch n.Value {
		case "true":
			return true
		case "false":
			return false
		}
	}
	s.p.problem(n.Line, fmt.Sprintf("%s is %s", s.of(key), describe(n)), "write true or false")
	return absent
}

// duration reads a number with its unit.
func (s section) duration(key string, low, high, absent time.Duration) time.Duration {
	n, ok := s.get(key)
	if !ok || reported(n) {
		return absent
	}
	advice := fmt.Sprintf("write a time with its unit from %s to %s, such as %s", short(low), short(high), short(min(10*time.Second, high)))
	d, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!int" && n.Value != "0" || err != nil {
		s.p.problem(n.Line, fmt.Sprintf("%s is %s", s.of(key), describe(n)), advice)
		return absent
	}
	if d < low || d > high {
		s.p.problem(n.Line, fmt.Sprintf("%s is %s, out of range", s.of(key), clip(n.Value)), advice)
		return absent
	}
	return d
}

// short writes a duration without its zero parts.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// list reads the items of a list that has at least one.
func (s section) list(key, advice string) []*yaml.Node {
	n, ok := s.need(key, advice)
	if !ok || reported(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		s.p.problem(s.line(key), fmt.Sprintf("%s is %s, not a list", s.of(key), describe(n)), advice)
		return nil
	}
	if len(n.Content) == 0 {
		s.p.problem(s.line(key), s.of(key)+" is empty", advice)
	}
	return n.Content
}
