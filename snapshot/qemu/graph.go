package qemu

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// graph is what a command line says of drives: which options make which node,
// and which device uses it.
type graph struct {
	options  []option
	nodes    map[string]int // -blockdev by node name
	drives   map[string]int // -drive by id, its own or the one QEMU gives it
	replaced map[int][]option
	placed   map[string]bool // disks that have found their place
	used     map[string]bool // nodes that something still refers to
}

func newGraph(options []option) graph {
	g := graph{options: options, nodes: map[string]int{}, drives: map[string]int{},
		replaced: map[int][]option{}, placed: map[string]bool{}, used: map[string]bool{}}
	count := map[string]int{}
	for i, o := range options {
		switch o.name {
		case "blockdev":
			g.nodes[parseKeyval(o.value, false).get("node-name")] = i
		case "drive":
			g.drives[driveID(parseKeyval(o.value, false), count)] = i
		case "hda", "hdb", "hdc", "hdd", "pflash", "":
			g.drives[shortID(o, count)] = i
		}
	}
	return g
}

// driveID is the id of a -drive: its own, or the one that QEMU makes of its
// interface and its place (blockdev.c).
func driveID(kv keyval, count map[string]int) string {
	bus := kv.get("if")
	if bus == "" {
		bus = "ide" // the default of the machines that have names like these
	}
	place := count[bus]
	count[bus]++
	for _, key := range []string{"index", "unit"} {
		if n, err := strconv.Atoi(kv.get(key)); err == nil {
			place = n
			count[bus] = n + 1
		}
	}
	if id := kv.get("id"); id != "" {
		return id
	}
	return busID(bus, kv.get("media"), place)
}

func busID(bus, media string, place int) string {
	kind := "-hd"
	if media == "cdrom" {
		kind = "-cd"
	}
	switch bus {
	case "ide":
		return fmt.Sprintf("ide%d%s%d", place/2, kind, place%2)
	case "scsi":
		return fmt.Sprintf("scsi%d%s%d", place/7, kind, place%7)
	}
	return bus + strconv.Itoa(place)
}

func shortID(o option, count map[string]int) string {
	if o.name == "pflash" {
		return driveID(parseKeyval("if=pflash", false), count)
	}
	return busID("ide", "", shortPlace(o.name))
}

// unplaced lists the disks for which no place was found.
func (g graph) unplaced(disks []snapshot.RestoredDisk) []string {
	var names []string
	for _, d := range disks {
		if !g.placed[d.Name] {
			names = append(names, d.Name)
		}
	}
	return names
}

// disks decides about every option that has to do with drives.
func (r *rewriter) disks() {
	g := r.graph
	for i, o := range g.options {
		switch o.name {
		case "device":
			r.device(i, o)
		case "machine", "M":
			r.flash(parseKeyval(o.value, true))
		case "cdrom", "fda", "fdb":
			g.replaced[i] = nil
			r.remark("the medium %s is not in its drive", o.value)
		}
	}
	for id, i := range g.drives {
		if _, done := g.replaced[i]; !done {
			r.drive(id, i)
		}
	}
	for name, i := range g.nodes {
		if _, done := g.replaced[i]; !done && !g.used[name] {
			g.replaced[i] = nil // nothing refers to it any more
		}
	}
}

// restored finds a disk by any of its names.
func (r *rewriter) restored(names ...string) *snapshot.RestoredDisk {
	for _, name := range names {
		for i := range r.vm.Disks {
			if name != "" && r.vm.Disks[i].Name == name && !r.graph.placed[name] {
				r.graph.placed[name] = true
				return &r.vm.Disks[i]
			}
		}
	}
	return nil
}

// served is the disk that a device has served, where a manager has named it otherwise.
func (r *rewriter) served(device string) string {
	for _, d := range r.vm.Hardware.Devices {
		if device != "" && d.ID == device {
			return d.Disk
		}
	}
	return ""
}

// device rewrites the drive that a device uses.
func (r *rewriter) device(i int, o option) {
	kv := parseKeyval(o.value, true)
	ref, driver := kv.get("drive"), kv.first("driver")
	if ref == "" {
		return
	}
	at, isNode := r.graph.nodes[ref]
	if !isNode {
		var ok bool
		if at, ok = r.graph.drives[ref]; !ok {
			return
		}
	}
	d := r.restored(kv.get("id"), ref, r.served(kv.get("id")))
	switch {
	case d != nil && isNode:
		r.graph.replaced[at] = []option{{name: "blockdev", value: newNode(r.graph.options[at], here(r.dir, d.Path), d.Format)}}
	case d != nil:
		r.graph.replaced[at] = []option{{name: "drive", value: newDrive(r.graph.options[at], here(r.dir, d.Path), d.Format)}}
	case strings.Contains(driver, "cd") || driver == "floppy":
		r.graph.replaced[at] = nil
		r.graph.replaced[i] = []option{{name: "device", value: kv.without("drive").String()}}
		r.remark("the drive %s is empty", ref)
	default:
		r.graph.replaced[at], r.graph.replaced[i] = nil, nil
		r.lose("the disk %s was not restored; its device is left out", ref)
	}
}

// newNode describes a restored disk under the name of the node before.
func newNode(was option, path string, format snapshot.Format) string {
	old := parseKeyval(was.value, false)
	kv := keyval{pairs: []pair{{key: "driver", value: string(format)}, {key: "node-name", value: old.get("node-name")}}}
	for _, key := range []string{"discard", "detect-zeroes", "cache.direct", "cache.no-flush"} {
		if v := old.get(key); v != "" {
			kv = kv.with(key, v)
		}
	}
	if kv.get("discard") != "" {
		kv = kv.with("file.discard", kv.get("discard"))
	}
	if kv.get("cache.direct") != "" {
		kv = kv.with("file.cache.direct", kv.get("cache.direct"))
	}
	return kv.with("file.driver", "file").with("file.filename", path).String()
}

// newDrive describes a restored disk in the drive of the one before.
func newDrive(was option, path string, format snapshot.Format) string {
	kv := parseKeyval(was.value, false).without("file", "format", "driver", "backing", "snapshot", "encrypt", "key-secret")
	return kv.with("file", path).with("format", string(format)).String()
}

// drive rewrites a drive that no -device names.
func (r *rewriter) drive(id string, i int) {
	o := r.graph.options[i]
	kv := parseKeyval(o.value, false)
	switch {
	case o.name == "pflash":
		r.graph.replaced[i] = []option{{name: o.name, value: r.flashPath(o.value)}}
	case kv.get("if") == "pflash":
		r.graph.replaced[i] = []option{{name: "drive", value: kv.with("file", r.flashPath(kv.get("file"))).String()}}
	case kv.get("media") == "cdrom" || kv.get("if") == "floppy":
		r.graph.replaced[i] = []option{{name: "drive", value: kv.without("file", "format", "driver").String()}}
		r.remark("the drive %s is empty", id)
	case kv.get("if") == "none":
		r.graph.replaced[i] = nil // no device uses it
	default:
		r.boardDrive(id, i)
	}
}

// boardDrive is a drive whose device comes with the machine or by itself.
func (r *rewriter) boardDrive(id string, i int) {
	o := r.graph.options[i]
	d := r.restored(id)
	if d == nil {
		r.graph.replaced[i] = nil
		r.lose("the disk %s was not restored; its drive is left out", id)
		return
	}
	if o.name != "drive" {
		o = option{name: "drive", value: "media=disk,index=" + strconv.Itoa(shortPlace(o.name))}
	}
	r.graph.replaced[i] = []option{{name: "drive", value: newDrive(o, here(r.dir, d.Path), d.Format)}}
}

// shortPlace is the place of -hda to -hdd; a path alone is the first disk.
func shortPlace(name string) int {
	if name == "" {
		return 0
	}
	return int(name[len(name)-1] - 'a')
}

// flash keeps the nodes that -machine names as firmware, with the restored
// variables.
func (r *rewriter) flash(machine keyval) {
	for _, key := range []string{"pflash0", "pflash1"} {
		if name := machine.get(key); name != "" {
			r.keepNode(name, 8)
		}
	}
}

// keepNode keeps a node and what it refers to, down to depth.
func (r *rewriter) keepNode(name string, depth int) {
	i, ok := r.graph.nodes[name]
	if !ok || depth == 0 {
		return
	}
	r.graph.used[name] = true
	kv := parseKeyval(r.graph.options[i].value, false)
	for _, key := range []string{"filename", "file.filename"} {
		if was := kv.get(key); was != "" {
			kv = kv.with(key, r.flashPath(was))
		}
	}
	r.graph.replaced[i] = []option{{name: "blockdev", value: kv.String()}}
	if child := kv.get("file"); child != "" {
		r.keepNode(child, depth-1)
	}
}

// flashPath is the restored file of firmware variables, or the path as it was:
// then it is firmware code, which every host has.
func (r *rewriter) flashPath(was string) string {
	i := slices.IndexFunc(r.vm.Files, func(f snapshot.RestoredFile) bool {
		return f.Role == snapshot.RoleNVRAM && (f.Path == was || !filepath.IsAbs(was) && strings.HasSuffix(f.Path, "/"+filepath.Clean(was)))
	})
	if i < 0 {
		return was
	}
	return here(r.dir, r.vm.Files[i].Now)
}
