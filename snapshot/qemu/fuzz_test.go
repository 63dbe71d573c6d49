package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// A command line comes out of a restore point, so it can be anything.
func FuzzRewrite(f *testing.F) {
	f.Add("qemu-system-x86_64\x00-drive\x00file=a,if=virtio\x00-device\x00virtio-blk-pci,drive=x\x00-S", "virtio0")
	f.Add("qemu\x00-blockdev\x00{\"driver\":\"raw\",\"node-name\":\"n\",\"file\":\"n\"}\x00-machine\x00q35,pflash0=n", "n")
	f.Add("q\x00--hdz\x00-hda\x00x\x00-pflash\x00\x00-\x00-drive\x00index=-9223372036854775808", "ide0-hd0")
	f.Add("q\x00-drive\x00if=scsi,index=99999999999999999999,,=\x00-chardev\x00socket\x00-netdev\x00tap,fd=1", "scsi0-hd0")
	f.Fuzz(func(t *testing.T, line, name string) {
		vm := snapshot.Restored{Name: name, Disks: []snapshot.RestoredDisk{{Name: name, Path: "/d/x,y", Format: snapshot.FormatRaw}},
			Files:    []snapshot.RestoredFile{{File: snapshot.File{Role: snapshot.RoleNVRAM, Path: name}, Now: "/d/nvram"}},
			Hardware: snapshot.Hardware{CommandLine: strings.Split(line, "\x00")}}
		text := script(name, rewrite("/d", vm))
		if n := strings.Count(text, "\nexec "); n != 1 && !strings.Contains(line+name, "exec ") {
			t.Fatalf("%d commands in\n%s", n, text)
		}
	})
}

func FuzzKeyval(f *testing.F) {
	f.Add("a=b,c.d=e,,f,g", true)
	f.Add("virtio-blk-pci,drive=x,", true)
	f.Add(`{"a":{"b":[true,null,1e99,"x"]}}`, false)
	f.Fuzz(func(t *testing.T, value string, implied bool) {
		kv := parseKeyval(value, implied)
		if kv.json {
			return
		}
		once := kv.String()
		if again := parseKeyval(once, implied); !again.json && again.String() != once {
			t.Fatalf("%q becomes %q", once, again)
		}
	})
}

// A delta that was written to must never be taken for one that was not.
func FuzzUntouched(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 100))
	header := make([]byte, 104)
	copy(header, "QFI\xfb")
	f.Add(header)
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "delta")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		empty, err := untouched(path)
		if empty && err == nil && len(b) > headerSize && string(b[:4]) != "QFI\xfb" && strings.Trim(string(b[:headerSize]), "\x00") != "" {
			t.Fatalf("%q counts as untouched", b)
		}
	})
}
