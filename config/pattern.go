package config

import (
	"path"
	"slices"
	"strings"
)

// matches holds a pattern against a VM: with a slash in it against host/name, else against
// the name alone. What stands behind tag: is held against its tags in place of the name.
func matches(pattern, host string, vm FoundVM) bool {
	if of, rest, slash := strings.Cut(pattern, "/"); slash {
		if ok, err := path.Match(of, host); !ok || err != nil {
			return false
		}
		pattern = rest
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
