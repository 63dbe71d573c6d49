package guesttest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// loadOrder sorts the wanted kernel modules and all that they depend on so that
// each comes after its dependencies. modules maps a module's name to its file.
func loadOrder(modules map[string][]byte, wanted []string) ([]string, error) {
	var order []string
	seen := make(map[string]bool)
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		data, ok := modules[name]
		if !ok {
			return fmt.Errorf("kernel package has no module %s", name)
		}
		needs, err := moduleDepends(data)
		if err != nil {
			return fmt.Errorf("read module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range wanted {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName is how the kernel calls the module in a file.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
}

// moduleDepends reads "depends=a,b" from the .modinfo section.
func moduleDepends(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var needs []string
	for field := range strings.SplitSeq(string(info), "\x00") {
		list, ok := strings.CutPrefix(field, "depends=")
		if !ok || list == "" {
			continue
		}
		for name := range strings.SplitSeq(list, ",") {
			needs = append(needs, moduleName(name))
		}
	}
	return needs, nil
}

// libraryPath is where Debian on amd64 keeps shared libraries.
const libraryPath = "/lib/x86_64-linux-gnu"

// sharedLibraries finds on this host what a program of the guest links to, and
// its loader. The libraries are there because Debian's QEMU needs the same ones.
func sharedLibraries(program []byte) (map[string][]byte, error) {
	libs := make(map[string][]byte)
	var add func(program []byte) error
	add = func(program []byte) error {
		f, err := elf.NewFile(bytes.NewReader(program))
		if err != nil {
			return err
		}
		needs, err := f.ImportedLibraries()
		if err != nil {
			return err
		}
		for _, name := range needs {
			if _, ok := libs[filepath.Join(libraryPath, name)]; ok {
				continue
			}
			data, err := os.ReadFile(filepath.Join(libraryPath, name))
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("no library %s on this host: install qemu-system-x86", name)
			}
			if err != nil {
				return err
			}
			libs[filepath.Join(libraryPath, name)] = data
			if err := add(data); err != nil {
				return err
			}
		}
		return nil
	}
	if err := add(program); err != nil {
		return nil, fmt.Errorf("find shared libraries: %w", err)
	}
	loader, err := os.ReadFile(filepath.Join(libraryPath, "ld-linux-x86-64.so.2"))
	if err != nil {
		return nil, fmt.Errorf("read loader: %w", err)
	}
	libs["/lib64/ld-linux-x86-64.so.2"] = loader
	return libs, nil
}
