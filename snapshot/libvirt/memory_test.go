package libvirt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
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
