package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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
