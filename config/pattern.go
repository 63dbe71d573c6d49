package config

import (
	"path"
	"strings"
)

func matches(pattern, vm string) bool {
	if !strings.Contains(pattern, "/") {
		vm = path.Base(vm)
	}
	ok, err := path.Match(pattern, vm)
	return ok && err == nil
}
