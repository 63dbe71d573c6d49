package libvirt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/libvirttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// A save image is as libvirt's own: where its header says that the definition ends, the
// stream begins.
func TestSaveImage(t *testing.T) {
	t.Parallel()
	const stream = "QEVM and so on"
	var staged bytes.Buffer
	if err := (MemoryDefiner{}).RestoreState(t.Context(), &staged, strings.NewReader(stream), int64(len(stream))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "memory.state")
	if err := os.WriteFile(path, staged.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeHead(path, "<domain/>"); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head := image[:imageHeader]
	length := binary.NativeEndian.Uint32(head[20:])
	if string(head[:16]) != "LibvirtQemudSave" || binary.NativeEndian.Uint32(head[16:]) != 2 || binary.NativeEndian.Uint32(head[24:]) != 1 ||
		!bytes.Equal(head[28:], make([]byte, 64)) {
		t.Errorf("header %x", head)
	}
	text, _, ended := bytes.Cut(image[imageHeader:imageHeader+length], []byte{0})
	if string(text) != "<domain/>" || !ended || string(image[imageHeader+length:]) != stream {
		t.Errorf("definition %q, stream %q", text, image[imageHeader+length:])
	}
	if err := writeHead(path, strings.Repeat("x", imageText)); !errors.Is(err, snapshot.ErrUnsupported) {
		t.Errorf("a definition without end: %v", err)
	}
}

func TestHasMemory(t *testing.T) {
	t.Parallel()
	state, live := snapshot.File{Role: snapshot.RoleSavedState, Path: "/x.state"}, snapshot.File{Role: snapshot.RoleDefinition, Path: livePath}
	if HasMemory([]snapshot.File{state}) || HasMemory([]snapshot.File{live}) || !HasMemory([]snapshot.File{live, state}) {
		t.Error("only a memory with the definition that it ran with can go on")
	}
}

// remembered is a restored VM with a memory, whose files are in a new folder.
func remembered(t *testing.T, dom *libvirttest.Domain, next, ran, state string) (dir string, vm snapshot.Restored) {
	t.Helper()
	dir = t.TempDir()
	vm = snapshot.Restored{Name: "kvm/" + dom.ID.Name}
	for i, name := range []string{"vda", "vdb"}[:len(dom.Disks)] {
		vm.Disks = append(vm.Disks, snapshot.RestoredDisk{Name: name, Path: dom.Disks[i], Format: dom.Format(i)})
	}
	for _, f := range []struct {
		snapshot.File
		name, content string
	}{
		{snapshot.File{Path: definitionPath, Role: snapshot.RoleDefinition}, "next", next},
		{snapshot.File{Path: livePath, Role: snapshot.RoleDefinition}, "now", ran},
		{snapshot.File{Path: "/web.state", Role: snapshot.RoleSavedState}, "ram", state},
	} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, []byte(f.content), 0o600); err != nil {
			t.Fatal(err)
		}
		vm.Files = append(vm.Files, snapshot.RestoredFile{File: f.File, Now: path})
	}
	return dir, vm
}

// left fails where a domain does not stand as it should, or its image is there.
func left(t *testing.T, c *rpc.Conn, dom *libvirttest.Domain, dir string, saved bool) {
	t.Helper()
	has, err := c.HasManagedSave(t.Context(), dom.ID)
	now, _, stateErr := c.State(t.Context(), dom.ID)
	if err := errors.Join(err, stateErr); err != nil || has != saved || now != rpc.StateShutoff {
		t.Errorf("the domain is in state %d, saved %v: %v", now, has, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ram")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the memory is there: %v", err)
	}
}

// badMemory: a memory that QEMU does not take is not kept, nor is one of another domain, or of
// one that had more of the host. The domain is defined, and off.
func badMemory(t *testing.T, d *libvirttest.Daemon, dom *libvirttest.Domain) {
	t.Helper()
	text, err := dom.Conn.XML(t.Context(), dom.ID, rpc.XMLInactive|rpc.XMLSecure)
	if err != nil {
		t.Fatal(err)
	}
	definer := MemoryDefiner{Definer: Definer{Address: d.Address(), Replace: true}}
	var state strings.Builder
	const stream = "no memory"
	if err := definer.RestoreState(t.Context(), &state, strings.NewReader(stream), int64(len(stream))); err != nil {
		t.Fatal(err)
	}
	const passed = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-S'/></qemu:commandline>"
	var refused *rpc.Error
	for name, test := range map[string]struct {
		old, new string
		is       error // nil: QEMU's
	}{
		"no memory":      {},
		"another name":   {"<name>Web<", "<name>other<", snapshot.ErrCorrupt},
		"another domain": {dom.ID.UUID.String(), newUUID(), snapshot.ErrCorrupt},
		"program":        {"<emulator>/usr/bin/", "<emulator>/bin/", snapshot.ErrUnsupported},
		"arguments":      {"</domain>", passed + "</domain>", snapshot.ErrUnsupported},
		"folder":         {"</devices>", "<filesystem><source dir='/etc'/><target dir='x'/></filesystem></devices>", snapshot.ErrUnsupported},
	} {
		ran := strings.Replace(text, test.old, test.new, 1)
		if test.old != "" && ran == text {
			t.Fatalf("%s: no %s in %s", name, test.old, text)
		}
		dir, vm := remembered(t, dom, text, ran, state.String())
		var hinted *snapshot.Hinted
		err := definer.Define(t.Context(), dir, vm)
		if !errors.Is(err, snapshot.ErrNoMemory) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "virsh start Web") {
			t.Errorf("%s: %v", name, err)
		}
		if test.is != nil && !errors.Is(err, test.is) || errors.As(err, &refused) != (test.is == nil) {
			t.Errorf("%s: %v, want %v", name, err, test.is)
		}
		left(t, dom.Conn, dom, dir, false)
	}
}

// saveMemory runs a domain up to its first instruction, and returns its definitions, and the
// image into which libvirt saves it as lull would have staged that.
func saveMemory(t *testing.T, c *rpc.Conn, dom *libvirttest.Domain) (next, ran, state string) {
	t.Helper()
	ctx := t.Context()
	var err error
	if dom.ID, err = c.Create(ctx, dom.ID, rpc.StartPaused); err != nil {
		t.Fatal(err)
	}
	next, err = c.XML(ctx, dom.ID, rpc.XMLInactive|rpc.XMLSecure)
	ran, liveErr := c.XML(ctx, dom.ID, rpc.XMLSecure)
	file := filepath.Join(t.TempDir(), "saved")
	if err := errors.Join(err, liveErr, c.Save(ctx, dom.ID, file, "", 0)); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	stream := image[imageHeader+binary.NativeEndian.Uint32(image[20:]):]
	return next, ran, string(append(make([]byte, imageHeader+imageText), stream...))
}

// cutMemory: whatever cuts it short, a domain that was to get its memory does not stand still
// afterwards: it is off, without a memory, or with one that is whole.
func cutMemory(t *testing.T, d *libvirttest.Daemon, c *rpc.Conn) {
	t.Helper()
	dom := libvirttest.Define(t, d, c, libvirttest.Options{
		Options: guesttest.Options{Name: "cut", Disks: []guesttest.Disk{{Size: 1 << 20}}, Memory: 64 << 20},
		OS:      "<type arch='x86_64' machine='q35'>hvm</type>",
	})
	next, ran, state := saveMemory(t, c, dom)
	definer := MemoryDefiner{Definer: Definer{Address: d.Address(), Replace: true}}
	// define has it cut, and begins anew where it was over before that.
	define := func(cut func(image string, cancel context.CancelFunc, over <-chan struct{}) bool) (string, error) {
		for range 20 {
			dir, vm := remembered(t, dom, next, ran, state)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var err error
			over := make(chan struct{})
			go func() { err = definer.Define(ctx, dir, vm); close(over) }()
			hit := cut(filepath.Join(dir, "ram"), cancel, over)
			<-over
			if hit {
				return dir, err
			}
			if err := errors.Join(err, c.ManagedSaveRemove(t.Context(), dom.ID)); err != nil {
				t.Fatal(err)
			}
		}
		t.Fatal("it is too fast to be cut short")
		return "", nil
	}

	dir, err := define(func(_ string, cancel context.CancelFunc, over <-chan struct{}) bool {
		pid := halt(t, dom.ID, over)
		if pid == 0 {
			return false
		}
		cancel()
		_ = syscall.Kill(pid, syscall.SIGCONT) // libvirt may have ended it
		return true
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, snapshot.ErrNoMemory) {
		t.Errorf("cut short while it is read: %v", err)
	}
	left(t, c, dom, dir, false)

	dir, err = define(func(image string, _ context.CancelFunc, over <-chan struct{}) bool {
		read := until(over, func() bool {
			b, err := os.ReadFile(image)
			return err == nil && bytes.HasPrefix(b, []byte("LibvirtQemudPart"))
		})
		if !read {
			return false
		}
		pid := halt(t, dom.ID, over)
		if pid == 0 {
			return false
		}
		d.Kill()
		_ = syscall.Kill(pid, syscall.SIGCONT)
		if err := d.Restart(t.Context()); err != nil {
			t.Error(err)
		}
		return true
	})
	t.Logf("the daemon died as it saved the memory: %v", err)
	left(t, d.Dial(t), dom, dir, err == nil)
}

// until waits for a condition; false: it was over before.
func until(over <-chan struct{}, is func() bool) bool {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !is() {
		select {
		case <-again.C:
		case <-over:
			return false
		}
	}
	return true
}

// halt stops the QEMU of a domain as soon as there is one; 0: there was none, or it is gone.
func halt(t testing.TB, dom rpc.Domain, over <-chan struct{}) (pid int) {
	t.Helper()
	found := until(over, func() bool {
		var err error
		pid, err = findPID(dom)
		return err == nil && pid != 0
	})
	if !found || syscall.Kill(pid, syscall.SIGSTOP) != nil {
		return 0
	}
	return pid
}
