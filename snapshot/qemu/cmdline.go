package qemu

import (
	"slices"
	"strings"
)

// option is one option of a QEMU command line.
type option struct {
	name  string // without dashes; empty for a disk image given without one
	value string
	bare  bool // the option takes no value
}

// parseOptions splits a command line, program name first. What each option means
// is not looked at.
func parseOptions(argv []string) []option {
	var list []option
	for i := 1; i < len(argv); i++ {
		name, ok := strings.CutPrefix(argv[i], "-")
		if !ok || name == "" {
			list = append(list, option{value: argv[i]})
			continue
		}
		o := option{name: strings.TrimPrefix(name, "-")}
		o.bare = takesNoValue(o.name) || i+1 == len(argv)
		if !o.bare {
			i++
			o.value = argv[i]
		}
		list = append(list, o)
	}
	return list
}

// takesNoValue knows the options without a value; qemu-options.hx of QEMU 6 to 10.
func takesNoValue(name string) bool {
	return slices.Contains([]string{
		"S", "s", "h", "help", "version", "daemonize", "nographic", "nodefaults", "nodefconfig",
		"no-user-config", "enable-kvm", "snapshot", "no-reboot", "no-shutdown", "no-hpet", "no-acpi",
		"no-fd-bootchk", "usb", "full-screen", "only-migratable", "preconfig", "mem-prealloc",
		"singlestep", "one-insn-per-tb", "enable-fips", "win2k-hack", "alt-grab", "ctrl-grab",
		"no-quit", "no-frame", "portrait", "sdl", "curses", "show-cursor", "semihosting", "old-param",
		"enable-sync-profile", "xen-attach", "xen-domid-restrict", "perfmap", "jitdump", "no-kvm",
	}, name)
}

// argv is the option as QEMU reads it.
func (o option) argv() []string {
	switch {
	case o.name == "":
		return []string{o.value}
	case o.bare:
		return []string{"-" + o.name}
	}
	return []string{"-" + o.name, o.value}
}
