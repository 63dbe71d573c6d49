package domainxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Bounds of a definition. A backing chain takes one element in another for each layer.
const (
	maxBytes = 4 << 20
	maxDepth = 1000
	maxNodes = 200_000
)

// ErrXML: a definition that cannot be one.
var ErrXML = errors.New("libvirt's XML is not as expected")

// Node is an element. A nil Node is one that is not there: it has no text, no attributes
// and no children.
type Node struct {
	Name     string // with its prefix, as it is written
	Attrs    []xml.Attr
	Text     string // all of its own, together
	Children []*Node
	parent   *Node
	raw      []byte // the text so far, while it is read
}

// parse reads one element with all that is in it.
func parse(text string) (*Node, error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrXML, len(text))
	}
	dec := xml.NewDecoder(strings.NewReader(text))
	var root, at *Node
	depth, nodes := 0, 0
	for {
		token, err := dec.RawToken() // names as they are written
		if errors.Is(err, io.EOF) && at == nil && root != nil {
			return root, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrXML, err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			depth, nodes = depth+1, nodes+1
			if at == nil && root != nil || depth > maxDepth || nodes > maxNodes {
				return nil, fmt.Errorf("%w: too deep, too many elements, or several at the top", ErrXML)
			}
			n := &Node{Name: written(t.Name), Attrs: slices.Clone(t.Attr), parent: at}
			if at == nil {
				root = n
			} else {
				at.Children = append(at.Children, n)
			}
			at = n
		case xml.EndElement:
			if at == nil || written(t.Name) != at.Name {
				return nil, fmt.Errorf("%w: an element ends that is not open", ErrXML)
			}
			at.Text, at.raw = string(at.raw), nil
			depth, at = depth-1, at.parent
		case xml.CharData:
			if at != nil {
				at.raw = append(at.raw, t...)
			}
		case xml.Directive:
			return nil, fmt.Errorf("%w: a directive", ErrXML)
		}
	}
}

// written is a raw name, whose Space is the prefix.
func written(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

// Child is the element at a path below n, the first of each name; nil: there is none.
func (n *Node) Child(path ...string) *Node {
	for _, name := range path {
		all := n.All(name)
		if len(all) == 0 {
			return nil
		}
		n = all[0]
	}
	return n
}

// All are the children of a name.
func (n *Node) All(name string) []*Node {
	if n == nil {
		return nil
	}
	var list []*Node
	for _, c := range n.Children {
		if c.Name == name {
			list = append(list, c)
		}
	}
	return list
}

// Attr is an attribute's value; empty: it may not be there.
func (n *Node) Attr(name string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.Attrs {
		if written(a.Name) == name {
			return a.Value
		}
	}
	return ""
}

// Value is the text without the space around it.
func (n *Node) Value() string {
	if n == nil {
		return ""
	}
	return strings.TrimSpace(n.Text)
}

// namespace is the URI of the namespace that an element is in.
func (n *Node) namespace() string {
	declared := "xmlns"
	if prefix, _, ok := strings.Cut(n.Name, ":"); ok {
		declared += ":" + prefix
	}
	for ; n != nil; n = n.parent {
		if uri := n.Attr(declared); uri != "" {
			return uri
		}
	}
	return ""
}

// local is the name without its prefix.
func (n *Node) local() string {
	if _, local, ok := strings.Cut(n.Name, ":"); ok {
		return local
	}
	return n.Name
}

// set gives an attribute a value; an empty one removes it.
func (n *Node) set(name, value string) {
	n.Attrs = slices.DeleteFunc(n.Attrs, func(a xml.Attr) bool { return written(a.Name) == name })
	if value != "" {
		n.Attrs = append(n.Attrs, xml.Attr{Name: xml.Name{Local: name}, Value: value})
	}
}

// need is the child of a name, made where there is none.
func (n *Node) need(name string) *Node {
	if c := n.Child(name); c != nil {
		return c
	}
	return n.add(name, "")
}

// add makes a child.
func (n *Node) add(name, text string) *Node {
	c := &Node{Name: name, Text: text, parent: n}
	n.Children = append(n.Children, c)
	return c
}

// drop removes all children of these names.
func (n *Node) drop(names ...string) {
	if n != nil {
		n.Children = slices.DeleteFunc(n.Children, func(c *Node) bool { return slices.Contains(names, c.Name) })
	}
}

// remove removes one child.
func (n *Node) remove(child *Node) {
	n.Children = slices.DeleteFunc(n.Children, func(c *Node) bool { return c == child })
}

// String is the element as XML.
func (n *Node) String() string {
	var b bytes.Buffer
	n.write(&b, 0)
	return b.String()
}

func (n *Node) write(b *bytes.Buffer, depth int) {
	indent := strings.Repeat("  ", min(depth, 20))
	b.WriteString(indent + "<" + n.Name)
	for _, a := range n.Attrs {
		b.WriteString(" " + written(a.Name) + "='" + escape(a.Value) + "'")
	}
	switch {
	case len(n.Children) > 0:
		b.WriteString(">")
		if text := n.Value(); text != "" { // beside elements
			b.WriteString(escape(text))
		}
		b.WriteString("\n")
		for _, c := range n.Children {
			c.write(b, depth+1)
		}
		b.WriteString(indent)
	case strings.TrimSpace(n.Text) != "":
		b.WriteString(">" + escape(n.Text))
	default:
		b.WriteString("/>\n")
		return
	}
	b.WriteString("</" + n.Name + ">\n")
}

// escape makes text of any string for XML, in quotes too. What XML cannot hold becomes U+FFFD.
func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a Buffer takes all
	return b.String()
}
