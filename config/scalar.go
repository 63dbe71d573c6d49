package config

import (
	"fmt"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// maxText bounds a value, in bytes: the longest path that Linux takes.
const maxText = 4096

// plain refuses what makes YAML surprising: anchors and aliases (which also
// multiply), merge keys, tags. The reader bounds how deep nodes go.
func (p *parser) plain(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		p.problem(n.Line, "aliases (*name) are not taken", "write the value out, or put it in quotes where a * is meant")
		return
	case n.Anchor != "":
		p.problem(n.Line, "anchors (&name) are not taken", "remove it, and write the value out where it is used, or put it in quotes where a & is meant")
	case n.Style&yaml.TaggedStyle != 0:
		p.problem(n.Line, "tags (!name) are not taken", "remove it, or put the value in quotes where a ! is meant")
	}
	for i, c := range n.Content {
		switch {
		case n.Kind == yaml.MappingNode && i%2 == 0 && mergeKey(c):
			p.problem(c.Line, "merge keys (<<) are not taken", "write the keys out")
		case n.Kind == yaml.MappingNode && i%2 == 1 && mergeKey(n.Content[i-1]):
		default:
			p.plain(c)
		}
	}
}

func mergeKey(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!merge"
}

// reported tells nodes that plain has refused already.
func reported(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || n.Style&yaml.TaggedStyle != 0
}

// text reads a scalar that is meant as text.
func (p *parser) text(n *yaml.Node, what string) (string, bool) {
	if reported(n) {
		return "", false
	}
	switch {
	case n.Kind != yaml.ScalarNode:
		p.problem(n.Line, fmt.Sprintf("%s is %s", what, describe(n)), "write one value")
	case n.ShortTag() == "!!null" || n.Value == "":
		p.problem(n.Line, what+" is empty", "write it, or remove the key")
	case n.ShortTag() != "!!str":
		p.problem(n.Line, fmt.Sprintf("%s is %s, not text", what, describe(n)), "put it in quotes")
	case len(n.Value) > maxText:
		p.problem(n.Line, fmt.Sprintf("%s is longer than %d bytes", what, maxText), "shorten it")
	case strings.ContainsFunc(n.Value, unicode.IsControl):
		p.problem(n.Line, what+" holds a line break or control character", "write it on one line")
	default:
		return n.Value, true
	}
	return "", false
}

// describe says what a node is, without its text.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section of keys"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!int", "!!float":
		return "a bare number"
	case "!!bool":
		return "true or false"
	case "!!timestamp":
		return "a date"
	}
	if n.Value == "" {
		return "empty"
	}
	return "text"
}

func describeNumber(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" {
		return describe(n)
	}
	return fmt.Sprintf("%s, which YAML may read as another number", clip(n.Value))
}

// clip shows a number or time as it was written.
func clip(s string) string {
	const most = 32
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
