package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot/guesttest"
)

// firmware follows the NVRAM of a guest with UEFI, which sets a variable of its own
// before the snapshot and another one after it, through a backup and its restore. Of a guest without
// it there is nothing to follow.
type firmware struct {
	frozen []byte // the NVRAM while everything held still
}

// variable is a file of efivarfs: four bytes of attributes, then the value.
func variable(name string) string {
	return "/sys/firmware/efi/efivars/" + name + "-2f6c1b52-7d0e-4b3a-9a55-0c8e1d4f7a10"
}

// set lets the guest write a variable, and proves that its NVRAM shows it.
func (f *firmware) set(l *lab, name string) {
	if l.guest.NVRAM == "" {
		return
	}
	before := f.nvram(l)
	script := "printf '\\007\\000\\000\\000value' >" + variable(name)
	if _, err := l.guest.Exec(l.ctx, "/bin/sh", "-c", script); err != nil {
		l.t.Error("set a firmware variable:", err)
	}
	if bytes.Equal(before, f.nvram(l)) {
		l.t.Error("the NVRAM does not show a variable that the guest has set")
	}
}

// look notes the NVRAM at the freeze.
func (f *firmware) look(l *lab) {
	if l.guest.NVRAM != "" {
		f.frozen = f.nvram(l)
	}
}

func (f *firmware) nvram(l *lab) []byte {
	b, err := os.ReadFile(l.guest.NVRAM)
	if err != nil {
		l.t.Error(err)
	}
	return b
}

// restored compares the NVRAM in the folder of a restore with that of the freeze.
func (f *firmware) restored(l *lab, dir string) {
	l.t.Helper()
	if l.guest.NVRAM == "" {
		return
	}
	b, err := os.ReadFile(filepath.Join(dir, filepath.Base(l.guest.NVRAM)))
	if err != nil || !bytes.Equal(b, f.frozen) {
		l.t.Errorf("the NVRAM that came back is not that of the freeze (%v)", err)
	}
	if bytes.Equal(f.nvram(l), f.frozen) {
		l.t.Error("the NVRAM did not move on: nothing was proven")
	}
}

// read proves that the restored guest has the variables of the freeze and no others.
func (f *firmware) read(l *lab, agent string) {
	l.t.Helper()
	if l.guest.NVRAM == "" {
		return
	}
	script := fmt.Sprintf("tail -c +5 %s; [ ! -e %s ]", variable("before"), variable("after"))
	got, err := guesttest.Exec(l.ctx, agent, "/bin/sh", "-c", script)
	if err != nil || string(got) != "value" {
		l.t.Errorf("the restored guest's firmware variable is %q, %v", got, err)
	}
}
