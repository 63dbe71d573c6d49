package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"gopkg.in/yaml.v3"
)

func (p *parser) host(name string, n *yaml.Node, line int) Host {
	what := fmt.Sprintf("host %s", quote(name))
	kinds := []string{"qemu", "images", "libvirt"}
	s := p.section(n, line, what, kinds...)
	h := Host{Name: name}
	qemu, isQEMU := s.get("qemu")
	images, isImages := s.get("images")
	daemon, isLibvirt := s.get("libvirt")
	given := slices.DeleteFunc(kinds, func(kind string) bool { _, ok := s.get(kind); return !ok })
	switch {
	case len(given) > 1:
		p.problem(max(s.line(given[0]), s.line(given[1])), what+" has both "+given[0]+" and "+given[1], "keep one, and write a second host for the other")
	case len(given) == 0 && s.ok:
		p.problem(line, what+" has no kind", "add qemu: {vms: [...]}, images: {vms: [...]} or libvirt: {uri: qemu:///system}")
	}
	seen := make(map[string]int)
	if isLibvirt {
		h.Libvirt = p.libvirt(&h, daemon, s.line("libvirt"), "libvirt of "+what)
	}
	if isQEMU {
		q := p.section(qemu, s.line("qemu"), "qemu of "+what, append([]string{"vms", "space"}, deltaKeys()...)...)
		h.Deltas = q.deltas()
		h.Space = q.space()
		for _, vm := range q.list("vms", vmsAdvice("{name: web, qmp: /run/vm/web.qmp}")) {
			h.QEMU = append(h.QEMU, p.qemuVM(vm, what, seen))
		}
	}
	if isImages {
		for _, vm := range p.vms(images, s.line("images"), "images of "+what, "{name: old, disks: [{path: /srv/old.qcow2, format: qcow2}]}") {
			h.Images = append(h.Images, p.imageVM(vm, what, seen))
		}
	}
	return h
}

func (p *parser) vms(n *yaml.Node, line int, what, example string) []*yaml.Node {
	return p.section(n, line, what, "vms").list("vms", vmsAdvice(example))
}

func vmsAdvice(example string) string { return "list each VM, such as " + example }

// vmName reads the name of a VM, which the host has once. It returns how to
// call the VM in messages.
func (s section) vmName(host string, seen map[string]int) (name, what string) {
	n, ok := s.need("name", "add name: NAME")
	if !ok {
		return "", s.what
	}
	name, ok = s.p.text(n, s.of("name"))
	if !ok {
		return "", s.what
	}
	s.p.name(n, "VM name")
	if first, twice := seen[name]; twice {
		s.p.problem(n.Line, fmt.Sprintf("%s has two VMs %s, the first on line %d", host, quote(name), first), "rename one of them")
	}
	seen[name] = n.Line
	return name, fmt.Sprintf("VM %s of %s", quote(name), host)
}

func (p *parser) qemuVM(n *yaml.Node, host string, seen map[string]int) QEMUVM {
	s := p.section(n, n.Line, "a VM of "+host, append([]string{"name", "qmp", "guest_agent"}, deltaKeys()...)...)
	if !s.ok {
		return QEMUVM{}
	}
	vm := QEMUVM{}
	vm.Name, s.what = s.vmName(host, seen)
	s.need("qmp", "add qmp: /run/vm/NAME.qmp, a socket made with -qmp unix:PATH,server=on,wait=off")
	vm.QMP = s.owned("qmp", "/run/vm/web.qmp")
	vm.GuestAgent = s.owned("guest_agent", "/run/vm/web.qga")
	s.fitsSocket("qmp", vm.QMP)
	s.fitsSocket("guest_agent", vm.GuestAgent)
	vm.Deltas = s.deltas()
	return vm
}

// owned reads the path of a socket or image that belongs to one VM alone.
func (s section) owned(key, example string) string {
	path := s.path(key, example)
	if path == "" {
		return ""
	}
	what := s.of(key)
	if other, taken := s.p.sockets[path]; taken {
		s.p.problem(s.line(key), what+" is also the "+other, "give each its own")
		return path
	}
	s.p.sockets[path] = what
	return path
}

func (p *parser) imageVM(n *yaml.Node, host string, seen map[string]int) ImageVM {
	s := p.section(n, n.Line, "a VM of "+host, "name", "disks")
	if !s.ok {
		return ImageVM{}
	}
	vm := ImageVM{}
	vm.Name, s.what = s.vmName(host, seen)
	names := make(map[string]int)
	for _, d := range s.list("disks", "list its disks, such as [{path: /srv/old.qcow2, format: qcow2}]") {
		vm.Disks = append(vm.Disks, p.imageDisk(d, s.what, names))
	}
	return vm
}

func (p *parser) imageDisk(n *yaml.Node, vm string, seen map[string]int) ImageDisk {
	s := p.section(n, n.Line, "a disk of "+vm, "path", "format", "name", "parents")
	if !s.ok {
		return ImageDisk{}
	}
	s.need("path", "add path: /srv/old.qcow2")
	d := ImageDisk{Path: s.owned("path", "/srv/old.qcow2"), Format: s.format(), Parents: s.parents()}
	d.Name = s.diskName(d.Path)
	if first, twice := seen[d.Name]; twice && d.Name != "" {
		p.problem(n.Line, fmt.Sprintf("%s has two disks %s, the first on line %d", vm, quote(d.Name), first), "add name: NAME to one of them")
	}
	seen[d.Name] = n.Line
	return d
}

// format is asked for, never guessed from bytes that a guest can write.
func (s section) format() snapshot.Format {
	const advice = "write raw, qcow2, vhd, vhdx or vmdk"
	if _, ok := s.need("format", "add format: raw or format: qcow2"); !ok {
		return ""
	}
	v, line := s.text("format")
	if f := snapshot.Format(v); f == "" || slices.Contains(snapshot.ReadFormats(), f) {
		return f
	}
	s.p.problem(line, fmt.Sprintf("%s is %s", s.of("format"), quote(v)), advice)
	return ""
}

// parents reads where the images are that an image in a format with parents was
// made on. No path inside an image leads out of its folder; these do.
func (s section) parents() []string {
	return s.paths("parents", "list their paths, such as [/srv/base.vhdx], or remove it where they are in the image's own folder")
}

func (s section) diskName(path string) string {
	name, line := s.text("name")
	if _, given := s.get("name"); !given {
		name, line = stem(path), s.at
	}
	if name == "" || validDisk(name) {
		return name
	}
	s.p.problem(line, fmt.Sprintf("disk name %s is not allowed", quote(name)), "add name: with at most 64 letters, digits, dots, underscores and dashes, which begins with a letter or digit")
	return ""
}

func validDisk(s string) bool {
	return len(s) <= MaxName && regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`).MatchString(s)
}

// stem is the name of an image that was given none: its base name without
// the ending.
func stem(path string) string {
	if path == "" {
		return ""
	}
	base := filepath.Base(path)
	if name := strings.TrimSuffix(base, filepath.Ext(base)); name != "" {
		return name
	}
	return base
}
