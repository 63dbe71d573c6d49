package libvirt

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// diskList is a domain's XML, and where its disks stand in it.
type diskList struct {
	text  string
	disks []listed
	agent bool // there is a channel to the guest's agent
}

// listed is a <disk>, as far as lull cares.
type listed struct {
	start, end int64 // in the text, bytes
	target     string
	alias      string
	source     string   // file or device of the top layer
	format     string   // of it, as libvirt calls it
	backing    []string // files or devices of the layers below, as far as the definition says
	shareable  bool     // other domains may have it, too
	transient  bool     // what is written to it is thrown away
	mirror     bool     // a block job copies it, or moves it to another layer
	ready      bool     // that job can be ended
}

// maxDepth bounds how deep elements lie in each other: a backing chain is the deepest.
const maxDepth = 1000

var errXML = errors.New("libvirt's XML is not as expected")

// agentChannel is the name of the port that the guest's agent listens on.
const agentChannel = "org.qemu.guest_agent.0"

// parseDisks finds what lull needs to know.
func parseDisks(text string) (diskList, error) {
	def := diskList{text: text}
	p := xml.NewDecoder(strings.NewReader(text))
	var path []string
	for {
		before := p.InputOffset()
		t, err := p.Token()
		if errors.Is(err, io.EOF) {
			return def, nil
		}
		if err != nil {
			return diskList{}, fmt.Errorf("%w: %w", errXML, err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if path = append(path, t.Name.Local); len(path) > maxDepth {
				return diskList{}, fmt.Errorf("%w: too deep", errXML)
			}
			def.note(path, t, before)
		case xml.EndElement:
			if strings.Join(path, "/") == diskPath {
				def.disks[len(def.disks)-1].end = p.InputOffset()
			}
			path = path[:len(path)-1]
		}
	}
}

const diskPath = "domain/devices/disk"

// note takes what an element tells; before is where it starts.
func (l *diskList) note(path []string, t xml.StartElement, before int64) {
	if len(path) > 4 {
		l.noteBacking(path, t)
		return
	}
	at := strings.Join(path, "/")
	if at == diskPath {
		l.disks = append(l.disks, listed{start: before})
		return
	}
	if at == "domain/devices/channel/target" {
		l.agent = l.agent || attribute(t, "name") == agentChannel
	}
	name, ok := strings.CutPrefix(at, diskPath+"/")
	if !ok {
		return
	}
	d := &l.disks[len(l.disks)-1]
	switch name {
	case "target":
		d.target = attribute(t, "dev")
	case "alias":
		d.alias = attribute(t, "name")
	case "source":
		d.source = attribute(t, "file") + attribute(t, "dev") // it has one of the two
	case "driver":
		d.format = attribute(t, "type")
	case "shareable":
		d.shareable = true
	case "transient":
		d.transient = true
	case "mirror":
		d.mirror, d.ready = true, attribute(t, "ready") == "yes"
	}
}

// noteBacking takes the source of a layer below a disk's first.
func (l *diskList) noteBacking(path []string, t xml.StartElement) {
	last := len(path) - 1
	if path[last] != "source" || strings.Join(path[:3], "/") != diskPath ||
		slices.ContainsFunc(path[3:last], func(name string) bool { return name != "backingStore" }) {
		return
	}
	if file := attribute(t, "file") + attribute(t, "dev"); file != "" {
		d := &l.disks[len(l.disks)-1]
		d.backing = append(d.backing, file)
	}
}

func attribute(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (l diskList) disk(target string) (listed, bool) {
	i := slices.IndexFunc(l.disks, func(d listed) bool { return d.target == target })
	if i < 0 {
		return listed{}, false
	}
	return l.disks[i], true
}

// source is the file of a disk's top layer; empty: there is none.
func (l diskList) source(target string) string {
	d, _ := l.disk(target)
	return d.source
}

// unkept says why no point has a disk, or nothing.
func unkept(shareable, transient bool) (reason string, expected bool) {
	switch {
	case transient:
		return "transient: what the guest writes is thrown away when it ends", true
	case shareable:
		return "shareable: other domains may write to it, and would go past a delta upon it; back up what is on it from inside a guest", false
	}
	return "", false
}

// leftOut are the disks that no point has, by the ids of their devices.
func (l diskList) leftOut() map[string]snapshot.Excluded {
	out := map[string]snapshot.Excluded{}
	for _, d := range l.disks {
		if reason, expected := unkept(d.shareable, d.transient); reason != "" && d.alias != "" {
			out[d.alias] = snapshot.Excluded{Reason: reason, Expected: expected}
		}
	}
	return out
}

// files are the disks that are files or devices of the host.
func (l diskList) files() (list []snapshot.Disk) {
	for _, d := range l.disks {
		if d.source != "" {
			list = append(list, snapshot.Disk{Name: d.target, Path: d.source, Format: formatOf(d.format)})
		}
	}
	return list
}

// mirrored tells whether libvirt knows of a job that moves the disk.
func (l diskList) mirrored(target string) bool {
	d, _ := l.disk(target)
	return d.mirror
}

// targets are the names of the disks by the ids of their devices.
func (l diskList) targets() map[string]string {
	names := map[string]string{}
	for _, d := range l.disks {
		if d.alias != "" {
			names[d.alias] = d.target
		}
	}
	return names
}

// record is the definition of one disk.
func (l diskList) record(target string) string {
	d, _ := l.disk(target)
	return l.text[d.start:d.end]
}

// retarget is the definition with a disk as the plan has noted it.
func (l diskList) retarget(p snapshot.DiskPlan) (string, error) {
	d, ok := l.disk(p.Name)
	if !ok || p.Record == "" {
		return "", fmt.Errorf("no definition of disk %s is known: %w", p.Name, snapshot.ErrUncertain)
	}
	return l.text[:d.start] + p.Record + l.text[d.end:], nil
}

// snapshotXML asks for a snapshot of the plan's disks and no others.
func snapshotXML(def diskList, p snapshot.Plan) (string, error) {
	var b strings.Builder
	b.WriteString("<domainsnapshot><disks>")
	left := len(p.Disks)
	for _, d := range def.disks {
		i := slices.IndexFunc(p.Disks, func(x snapshot.DiskPlan) bool { return x.Name == d.target })
		if i < 0 {
			fmt.Fprintf(&b, "<disk name='%s' snapshot='no'/>", escape(d.target))
			continue
		}
		left--
		fmt.Fprintf(&b, "<disk name='%s' snapshot='external' type='file'><driver type='qcow2'/><source file='%s'/></disk>",
			escape(d.target), escape(p.Disks[i].Delta))
	}
	if left > 0 {
		return "", fmt.Errorf("a disk of the plan is not in the domain any more: %w", snapshot.ErrBusy)
	}
	b.WriteString("</disks></domainsnapshot>")
	return b.String(), nil
}

// escape makes text of any string for XML, in quotes too.
func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a Buffer takes all
	return b.String()
}
