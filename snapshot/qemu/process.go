package qemu

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxCommandLine bounds a command line that is recorded, in bytes. Linux allows
// 2 MiB by default; QEMU is started with some 10 KiB.
const maxCommandLine = 1 << 20

// process is the QEMU behind a monitor, as far as /proc shows it.
type process struct {
	pid      int    // 0: not known
	instance string // of this start of the process; empty: not known
}

// findProcess looks at the process that listens on a socket. That can also be
// someone who listens on QEMU's behalf; then nothing is known.
func findProcess(pid int) process {
	if pid <= 0 {
		return process{}
	}
	p := process{pid: pid}
	line := p.commandLine()
	if len(line) == 0 || !isQEMU(line[0]) {
		return process{}
	}
	p.instance = instanceOf(pid)
	return p
}

func isQEMU(program string) bool {
	name := filepath.Base(program)
	return strings.Contains(name, "qemu") || strings.Contains(name, "kvm")
}

// instanceOf tells this start of a process from any other with the same PID.
func instanceOf(pid int) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name, in parentheses, may hold anything; 20 fields after its state
	// comes the start time in clock ticks since boot: proc(5).
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" && fields[17] == "1" { // ended, with its last thread, and nobody has asked how
		return ""
	}
	return fmt.Sprintf("%s-%d-%s", strings.TrimSpace(string(boot)), pid, fields[19])
}

// living tells whether the process of an instance is still there, whether or not its
// monitor answers.
func living(instance string) bool { return instancePID(instance) != 0 }

// instancePID is the process of an instance; 0: it is not there any more.
func instancePID(instance string) int {
	words := strings.Split(instance, "-") // of the boot, several; PID; start time
	if len(words) < 3 {
		return 0
	}
	pid, err := strconv.Atoi(words[len(words)-2])
	if err != nil || instanceOf(pid) != instance {
		return 0
	}
	return pid
}

// alive tells whether it is still the same process.
func (p process) alive() bool { return p.instance != "" && instanceOf(p.pid) == p.instance }

// commandLine is the argument vector, or nil where it cannot be read.
func (p process) commandLine() []string {
	if p.pid == 0 {
		return nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCommandLine+1))
	if err != nil || len(b) == 0 || len(b) > maxCommandLine {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// find makes a path of the process absolute. QEMU may have been started in one
// folder and live in another, so the files that it has open come first.
func (p process) find(path string) (string, bool) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), true
	}
	if p.pid == 0 {
		return "", false
	}
	tail := "/" + filepath.Clean(path)
	var open []string
	for _, link := range p.openFiles() {
		if strings.HasSuffix(link, tail) {
			open = append(open, link)
		}
	}
	slices.Sort(open)
	if open = slices.Compact(open); len(open) == 1 {
		return open[0], true
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.pid))
	if err != nil {
		return "", false
	}
	path = filepath.Join(cwd, path)
	if _, err := os.Stat(path); err != nil {
		return "", false
	}
	return path, true
}

// opened tells whether the process has a file open. known is false where that
// cannot be seen.
func (p process) opened(file fs.FileInfo) (is, known bool) {
	dir := "/proc/" + strconv.Itoa(p.pid) + "/fd"
	entries, err := os.ReadDir(dir)
	if p.pid == 0 || err != nil {
		return false, false
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		open, err := os.Stat(filepath.Join(dir, e.Name()))
		return err == nil && os.SameFile(open, file)
	}), true
}

func (p process) openFiles() []string {
	dir := "/proc/" + strconv.Itoa(p.pid) + "/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var links []string
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			links = append(links, link)
		}
	}
	return links
}

// opener is a process of the host that has a file open, which it opened by a name that began
// so. Empty: none that can be seen.
func opener(file fs.FileInfo, begin string) (pid string) {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		name, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(filepath.Base(name), begin) {
			continue // no file system is asked that may not answer
		}
		if open, err := os.Stat(link); err == nil && os.SameFile(open, file) {
			return strings.Split(link, "/")[2]
		}
	}
	return ""
}
