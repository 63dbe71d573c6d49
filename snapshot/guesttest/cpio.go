package guesttest

import (
	"fmt"
	"io"
	"path"
)

// archive writes a cpio archive in the kernel's "newc" format. Writing it here
// rather than with cpio(1) needs no root for device nodes and owners.
type archive struct {
	w     io.Writer
	inode int
	made  map[string]bool // folders that are in already
	err   error           // the first one; later calls do nothing
}

// File types and permissions as in stat(2).
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
	modeChar = 0o020000
)

func newArchive(w io.Writer) *archive {
	return &archive{w: w, made: map[string]bool{".": true, "/": true}}
}

func (a *archive) folder(name string) {
	if a.made[name] {
		return
	}
	a.folder(path.Dir(name))
	a.made[name] = true
	a.entry(name, modeDir|0o755, 0, 0, nil)
}

func (a *archive) file(name string, perm int, data []byte) {
	a.folder(path.Dir(name))
	a.entry(name, modeFile|perm, 0, 0, data)
}

func (a *archive) link(name, target string) {
	a.folder(path.Dir(name))
	a.entry(name, modeLink|0o777, 0, 0, []byte(target))
}

func (a *archive) charDevice(name string, major, minor int) {
	a.folder(path.Dir(name))
	a.entry(name, modeChar|0o600, major, minor, nil)
}

// close ends the archive and returns the first error of all.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.err
}

func (a *archive) entry(name string, mode, major, minor int, data []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	a.write([]byte(header))
	a.write(data)
}

// write writes p and fills up to the next multiple of 4; the header's fixed part
// and name are padded as one.
func (a *archive) write(p []byte) {
	if a.err != nil {
		return
	}
	if _, a.err = a.w.Write(p); a.err == nil {
		_, a.err = a.w.Write(make([]byte, -len(p)&3))
	}
}
