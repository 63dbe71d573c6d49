package config

import (
	"path"
	"slices"
	"strings"
)

// matches holds a pattern against a VM: with a slash in it against host/name, else against
// the name alone. What stands behind tag: is held against its tags in place of the name.
func matches(pattern, host string, vm FoundVM) bool {
	pattern, ok := ofHost(pattern, host)
	if !ok {
		return false
	}
	is := func(name string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	}
	if rest, tag := strings.CutPrefix(pattern, tagPrefix); tag {
		pattern = rest
		return slices.ContainsFunc(vm.Tags, is)
	}
	return is(vm.Name)
}

// ofHost is what a pattern says of the names of a host; false: it means none of that host.
func ofHost(pattern, host string) (string, bool) {
	of, rest, slash := strings.Cut(pattern, "/")
	if !slash {
		return pattern, true
	}
	ok, err := path.Match(of, host)
	return rest, ok && err == nil
}

// Reaches tells whether VMs of a host may be in the group, as far as its patterns say.
func (g Group) Reaches(host string) bool {
	return slices.ContainsFunc(g.Patterns, func(p string) bool { _, ok := ofHost(p, host); return ok })
}

// mayHold tells whether a VM of which nothing but the name is known may be in the group:
// it might have any tag.
func (g Group) mayHold(host, name string) bool {
	return slices.ContainsFunc(g.Patterns, func(p string) bool {
		rest, ok := ofHost(p, host)
		return ok && (strings.HasPrefix(rest, tagPrefix) || matches(rest, host, FoundVM{Name: name}))
	})
}
