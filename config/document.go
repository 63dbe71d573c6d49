package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// document reads the one document of the file into nodes.
func (p *parser) document(data []byte) (*yaml.Node, bool) {
	if len(data) > MaxSize {
		p.problem(1, fmt.Sprintf("the file is larger than %d KiB", MaxSize>>10), "keep to the configuration of one host")
		return nil, false
	}
	if line, ok := badText(data); ok {
		p.problem(line, "this is no UTF-8 text", "save the file as UTF-8")
		return nil, false
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	root, err := decode(dec)
	switch {
	case errors.Is(err, io.EOF) || err == nil && empty(root):
		p.problem(1, "the file is empty", "begin with repositories:, as in docs/configuration.md")
		return nil, false
	case err != nil:
		p.syntax(data, err)
		return nil, false
	}
	switch second, err := decode(dec); {
	case errors.Is(err, io.EOF):
	case err != nil:
		p.syntax(data, err)
	default:
		p.problem(second.Line, "a second document begins", "remove the --- line: a file holds one document")
	}
	return root.Content[0], true
}

func empty(root *yaml.Node) bool {
	return len(root.Content) == 0 || root.Content[0].Kind == yaml.ScalarNode && root.Content[0].ShortTag() == "!!null"
}

// decode reads the next document. The library is archived, and damaged input is
// known to run it into the end of its slices: that is a syntax error too.
func decode(dec *yaml.Decoder) (n *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("yaml: the parser gave up")
		}
	}()
	n = new(yaml.Node)
	err = dec.Decode(n)
	return n, err
}

// badText finds the first line that is no text.
func badText(data []byte) (int, bool) {
	if utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 {
		return 0, false
	}
	line := 1
	for l := range bytes.Lines(data) {
		if !utf8.Valid(l) || bytes.IndexByte(l, 0) >= 0 {
			break
		}
		line++
	}
	return line, true
}

// syntax rewrites what the library says of broken YAML.
func (p *parser) syntax(data []byte, err error) {
	line, text := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line (\d+): `).FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	if tab, ok := tabIndent(data, line); ok {
		p.problem(tab, "a tab stands in the indentation", "indent with spaces")
		return
	}
	if star, ok := bareStar(data, line); ok {
		p.problem(star, "a bare * does not begin a value in YAML", `put the value in quotes, such as "*"`)
		return
	}
	what, instead := plainWords(text)
	p.problem(max(line, 1), what, instead)
}

// tabIndent finds a line near the reported one that is indented with a tab: the
// library reports the line before as often as the line itself.
func tabIndent(data []byte, line int) (int, bool) {
	return near(data, line, func(l string) bool {
		indent := l[:len(l)-len(strings.TrimLeft(l, " \t"))]
		return strings.Contains(indent, "\t") && strings.TrimSpace(l) != ""
	})
}

var starValue = regexp.MustCompile(`(:|-|\[|,)\s*\*`)

func bareStar(data []byte, line int) (int, bool) {
	return near(data, line, starValue.MatchString)
}

// near finds the line, of the reported one and its neighbours, that is meant.
func near(data []byte, line int, is func(string) bool) (int, bool) {
	lines := strings.Split(string(data), "\n")
	for _, n := range []int{line, line + 1, line - 1} {
		if n >= 1 && n <= len(lines) && is(lines[n-1]) {
			return n, true
		}
	}
	return 0, false
}

// plainWords says what a message of the library means.
func plainWords(text string) (what, instead string) {
	for _, m := range []struct{ has, what, instead string }{
		{"mapping values are not allowed", "a second colon on one line", "put the value in quotes, or begin a new line for the key"},
		{"could not find expected ':'", "a key without a colon", "write key: value"},
		{"did not find expected key", "the indentation does not fit the lines above", "indent the keys of one section alike, and close quotes and brackets"},
		{"did not find expected '-' indicator", "a list is broken off", "begin each item with a dash, all indented alike"},
		{"expected ',' or", "a bracket is not closed, or a comma is missing", "close it with ] or }, and put commas between its items"},
		{"did not find expected node content", "a value is missing", "write it, and no comma before it"},
		{"unexpected end of stream", "quotes are not closed", "close them"},
		{"unknown escape character", "a backslash in double quotes", "use single quotes, or write it twice"},
		{"escape", "a backslash in double quotes", "use single quotes, or write it twice"},
		{"cannot start any token", "a character that begins no value, such as @, ` or %", "put the value in quotes"},
		{"alphabetic or numeric character", "a bare * or & begins no value", "put the value in quotes"},
		{"unknown anchor", "a bare * begins no value", "put the value in quotes"},
		{"unexpected document indicator", "a line of --- or ... inside a value", "put the value in quotes"},
		{"control characters are not allowed", "a control character", "remove it"},
		{"max depth", "brackets or indentation go thousands deep", "write the sections as in docs/configuration.md"},
		{"sequence entries are not allowed", "a dash where no list can begin", "begin the list on a line of its own, or put the value in quotes"},
	} {
		if strings.Contains(text, m.has) {
			return m.what, m.instead
		}
	}
	return "this is no valid YAML", "compare the lines here with the examples in docs/configuration.md"
}
