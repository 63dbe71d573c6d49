package image

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// diskNames gives every disk a name: its own, or the base name of its file
// without the ending, with a number where that is taken.
func diskNames(disks []DiskSpec) ([]string, error) {
	if len(disks) == 0 {
		return nil, errors.New("no disks")
	}
	taken := map[string]bool{}
	for _, d := range disks {
		if d.Name != "" && taken[d.Name] {
			return nil, fmt.Errorf("two disks are named %q", d.Name)
		}
		taken[d.Name] = d.Name != ""
	}
	names := make([]string, len(disks))
	for i, d := range disks {
		names[i] = d.Name
		if d.Name == "" {
			names[i] = freeName(baseName(d.Path), taken)
		}
		taken[names[i]] = true
	}
	return names, nil
}

func baseName(path string) string {
	base := filepath.Base(path)
	if name := strings.TrimSuffix(base, filepath.Ext(base)); name != "" {
		return name
	}
	return base
}

func freeName(name string, taken map[string]bool) string {
	free := name
	for n := 2; taken[free]; n++ {
		free = fmt.Sprintf("%s-%d", name, n)
	}
	return free
}
