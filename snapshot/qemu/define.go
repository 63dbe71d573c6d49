package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/vmstate"
)

// Names of what Define writes.
const (
	scriptName = "boot.sh"
	recordName = "vm.json"
)

// Definer writes a script that starts a restored VM in a plain QEMU process. It
// implements snapshot.Definer.
type Definer struct{}

var _ snapshot.StateDefiner = Definer{}

// Writes is vm.json and boot.sh.
func (Definer) Writes(dir string) []string {
	return []string{filepath.Join(dir, recordName), filepath.Join(dir, scriptName)}
}

// Define writes boot.sh and vm.json into dir. The script runs in its own folder
// and keeps its sockets there; files that lie in that folder are named relative
// to it, so the folder can be moved.
func (Definer) Define(ctx context.Context, dir string, vm snapshot.Restored) error {
	record, err := json.MarshalIndent(vm, "", "  ")
	if err != nil {
		return fmt.Errorf("define %s: %w", vm.Name, err)
	}
	text := script(vm.Name, rewrite(dir, vm))
	for _, f := range []struct {
		name    string
		content []byte
		mode    fs.FileMode
	}{{recordName, append(record, '\n'), 0o600}, {scriptName, []byte(text), 0o700}} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := durable.Put(filepath.Join(dir, f.name), f.content, f.mode, vm.Overwrite); err != nil {
			return fmt.Errorf("define %s: %w", vm.Name, spaceOr(err))
		}
	}
	return nil
}

// RestoreState takes a state out of its layout.
func (Definer) RestoreState(ctx context.Context, w io.Writer, src io.ReaderAt, size int64) error {
	laid, err := vmstate.IsLayout(src)
	if err == nil && !laid { // as early versions stored it
		_, err = io.Copy(w, io.NewSectionReader(src, 0, size))
	} else if err == nil {
		err = vmstate.Unpack(ctx, w, src, size)
	}
	if err != nil {
		return fmt.Errorf("take saved state out of its layout: %w", err)
	}
	return nil
}

// start is a command that starts a VM.
type start struct {
	program string
	accels  []string // in the order in which they are tried; none: QEMU's choice
	options []option
	saved   *savedStart
	remarks []string // what differs from the VM that was backed up
	lost    []string // those of remarks that a guest that goes on would notice
}

// script is the text of boot.sh. All that comes from the VM is quoted: it is
// data, whatever it holds.
func script(name string, s start) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/sh\n# Starts the restored VM %s. Written by lull.\n#\n", comment(name))
	b.WriteString("# More options for QEMU can be given as arguments. LULL_QEMU names another\n" +
		"# program, LULL_ACCEL another accelerator, such as kvm or tcg,thread=multi.\n")
	for _, r := range s.remarks {
		fmt.Fprintf(&b, "# Not as before: %s\n", comment(r))
	}
	b.WriteString("set -eu\nCDPATH= cd -- \"$(dirname -- \"$0\")\"\n")
	fmt.Fprintf(&b, "program=%s\nprogram=${LULL_QEMU:-$program}\n", snapshot.ShellWord(s.program))
	if s.saved != nil {
		b.WriteString(s.saved.script())
	}
	b.WriteString("if [ -n \"${LULL_ACCEL:-}\" ]; then\n\tset -- -accel \"$LULL_ACCEL\" \"$@\"\n")
	if len(s.accels) > 0 {
		b.WriteString("else\n\tset --")
		for _, a := range s.accels {
			b.WriteString(" -accel " + snapshot.ShellWord(a))
		}
		b.WriteString(" \"$@\"\n")
	}
	b.WriteString("fi\n")
	b.WriteString("exec \"$program\" \\\n")
	for _, o := range s.options {
		words := o.argv()
		for i := range words {
			words[i] = snapshot.ShellWord(words[i])
		}
		fmt.Fprintf(&b, "\t%s \\\n", strings.Join(words, " "))
	}
	b.WriteString("\t\"$@\"\n")
	return b.String()
}

// comment keeps a text on its line.
func comment(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// program is the QEMU to start, by its plain name where it has one, so that the
// PATH of the new host finds it.
func program(hw snapshot.Hardware) string {
	if len(hw.CommandLine) > 0 {
		if name := filepath.Base(hw.CommandLine[0]); strings.HasPrefix(name, "qemu-system-") {
			return name
		}
	}
	return "qemu-system-" + cmp.Or(hw.Arch, "x86_64")
}

// here names a file for a script that runs in dir. The "./" keeps QEMU from
// seeing a protocol in a name with a colon.
func here(dir, path string) string {
	rel, err := filepath.Rel(dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		if abs, err := filepath.Abs(path); err == nil {
			return abs
		}
		return path
	}
	return "./" + rel
}
