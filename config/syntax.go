package config

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// syntax rewrites what the library says of broken YAML.
func (p *parser) syntax(data []byte, err error) {
	line, text := message(err)
	line = locate(data, line, text)
	if tabIndent(data, line) {
		p.problem(line, "a tab stands in the indentation", "indent with spaces")
		return
	}
	if starValue.MatchString(lineOf(data, line)) {
		p.problem(line, "a bare * does not begin a value in YAML", `put the value in quotes, such as "*"`)
		return
	}
	what, instead := plainWords(text)
	p.problem(line, what, instead)
}

// message takes an error of the library apart.
func message(err error) (line int, text string) {
	text = strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line (\d+): `).FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	return max(line, 1), text
}

// locateLines and locateBytes bound the files that locate reads anew from the
// top for every line.
const (
	locateLines = 1000
	locateBytes = 64 << 10
)

// locate finds the line that an error is about. The library names the line where
// the section with the error began, or the one before; so cut lines off the end
// until the error goes: the last that was cut is meant.
func locate(data []byte, reported int, text string) int {
	ends := lineEnds(data)
	if len(ends) > locateLines || len(data) > locateBytes {
		return min(reported, len(ends))
	}
	for n := len(ends); n > 1; n-- {
		if !failsWith(data[:ends[n-2]], text) {
			return n
		}
	}
	return 1
}

func lineEnds(data []byte) []int {
	var ends []int
	at := 0
	for l := range bytes.Lines(data) {
		at += len(l)
		ends = append(ends, at)
	}
	return ends
}

func failsWith(data []byte, text string) bool {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for range 2 {
		_, err := decode(dec)
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			_, got := message(err)
			return got == text
		}
	}
	return false
}

func lineOf(data []byte, n int) string {
	for l := range bytes.Lines(data) {
		if n--; n == 0 {
			return string(l)
		}
	}
	return ""
}

func tabIndent(data []byte, line int) bool {
	l := lineOf(data, line)
	indent := l[:len(l)-len(strings.TrimLeft(l, " \t"))]
	return strings.Contains(indent, "\t")
}

// starValue is a value that begins with a star that no name follows.
var starValue = regexp.MustCompile(`[:\[,-]\s*\*(\W|$)`)

// plainWords says what a message of the library means.
func plainWords(text string) (what, instead string) {
	for _, m := range []struct{ has, what, instead string }{
		{"mapping values are not allowed", "a colon where none can stand", "put a value with a colon in quotes, begin a line for each key, and end each key with a colon"},
		{"could not find expected ':'", "a key without a colon", "write key: value"},
		{"did not find expected key", "the indentation does not fit the lines above", "indent the keys of one section alike, and close quotes and brackets"},
		{"did not find expected '-' indicator", "a list is broken off", "begin each item with a dash, all indented alike"},
		{"expected ',' or", "a bracket is not closed, or a comma is missing", "close it with ] or }, and put commas between its items"},
		{"did not find expected node content", "a value is missing", "write it, and no comma before it"},
		{"unexpected end of stream", "quotes are not closed", "close them"},
		{"unknown escape character", "a backslash in double quotes", "use single quotes, or write it twice"},
		{"hexdecimal", "a backslash in double quotes", "use single quotes, or write it twice"},
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
