package vmdk

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

const (
	maxDescriptor = 1 << 20 // bytes
	maxExtents    = 1024    // 2 TiB in the usual pieces of 2 GiB
	maxSectors    = 1 << 37 // 64 TiB

	noParent = "ffffffff"
)

// descriptor is what the text of an image says.
type descriptor struct {
	cid, parentCID string
	parent         string // path
	kind           string
	extents        []extentLine
}

// extentLine is one line: RW 5860 SPARSE "name.vmdk" 0
type extentLine struct {
	access  string
	sectors int64
	kind    string
	name    string
	offset  int64 // in the file, sectors
}

// parseDescriptor reads the text of a descriptor, which may be padded with zeros.
func parseDescriptor(f *layer.File, text []byte) (descriptor, error) {
	text, _, _ = bytes.Cut(text, []byte{0})
	d := descriptor{parentCID: noParent}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxDescriptor)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && !strings.ContainsAny(key, `"`) {
			d.set(strings.ToLower(strings.TrimSpace(key)), strings.Trim(strings.TrimSpace(value), `"`))
			continue
		}
		e, ok := parseExtent(line)
		if !ok {
			return d, f.Corrupt("descriptor has the line %.80q", line)
		}
		if d.extents = append(d.extents, e); len(d.extents) > maxExtents {
			return d, f.Unsupported("more than %d extents", maxExtents)
		}
	}
	return d, lines.Err()
}

func (d *descriptor) set(key, value string) {
	switch key {
	case "cid":
		d.cid = strings.ToLower(value)
	case "parentcid":
		d.parentCID = strings.ToLower(value)
	case "parentfilenamehint":
		d.parent = value
	case "createtype":
		d.kind = value
	}
}

func parseExtent(line string) (e extentLine, ok bool) {
	head, rest, quoted := strings.Cut(line, `"`)
	words := strings.Fields(head)
	if len(words) != 3 {
		return e, false
	}
	sectors, err := strconv.ParseInt(words[1], 10, 64)
	if err != nil || sectors < 0 || sectors > maxSectors {
		return e, false
	}
	e = extentLine{access: strings.ToUpper(words[0]), sectors: sectors, kind: strings.ToUpper(words[2])}
	if !quoted {
		return e, e.kind == "ZERO"
	}
	name, rest, closed := strings.Cut(rest, `"`)
	e.name = name
	if rest = strings.TrimSpace(rest); rest != "" {
		first, _, _ := strings.Cut(rest, " ")
		e.offset, err = strconv.ParseInt(first, 10, 64)
	}
	return e, closed && err == nil && e.offset >= 0 && e.offset <= maxSectors
}
