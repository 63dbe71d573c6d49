package qemu

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// A disk that QEMU encrypts (a LUKS container, or a qcow2 image with LUKS in it) is read
// from QEMU, which has the key. Its delta is encrypted too, with the very key of the disk:
// what the guest writes during a backup lies on the host no other way than the rest. lull
// never sees the key: it names the object that QEMU holds it in, and so nobody but QEMU, or
// an administrator with the key, can merge such a delta.

// formatLUKS is the format of a LUKS container without a disk format in it. What a guest
// sees of it is a raw disk.
const formatLUKS snapshot.Format = "luks"

// keyOf finds the object with the key of an encrypted drive: what the command line names,
// else the only one that there is.
func (m *monitor) keyOf(ctx context.Context, b block) (string, error) {
	for _, o := range parseOptions(m.proc.commandLine()) {
		if o.name != "blockdev" && o.name != "drive" {
			continue
		}
		kv := parseKeyval(o.value, false)
		node, id := kv.get("node-name"), kv.get("id")
		if node != "" && node == b.Inserted.Node || id != "" && id == b.Device {
			for _, key := range []string{"encrypt.key-secret", "key-secret"} {
				if name := kv.get(key); name != "" {
					return name, nil
				}
			}
		}
	}
	var objects []struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	if err := m.ask(ctx, "qom-list", args{"path": "/objects"}, &objects); err != nil {
		return "", err
	}
	var keys []string
	for _, o := range objects {
		if strings.HasPrefix(o.Type, "child<secret") {
			keys = append(keys, o.Name)
		}
	}
	if len(keys) != 1 {
		return "", nil
	}
	return keys[0], nil
}

// deltaIteration is how long the key of a delta is derived from the disk's, in
// milliseconds. QEMU does that in its main loop, several times over, and its guest may
// wait meanwhile; QEMU's own two seconds are too long for a guest that runs. How many
// rounds that makes QEMU finds out anew for every image, which takes it a second.
const deltaIteration = 100

// deltaHash is what the key of a delta is derived with. QEMU's own choice, SHA-256, is so
// fast on a processor with instructions for it that QEMU 7.2's first measure (32,768 rounds,
// a few milliseconds) may end before the kernel's next tick, which QEMU takes for a fault;
// SHA-512 takes it several ticks.
const deltaHash = "sha512"

// encryption is what a delta is opened with.
func encryption(d snapshot.DiskPlan) args {
	return args{"format": "luks", "key-secret": d.Key}
}

// commitCommand is how an administrator commits a delta by hand, and removes it.
func commitCommand(d snapshot.DiskPlan, delta string) string {
	word := snapshot.ShellWord
	if d.Key == "" {
		return fmt.Sprintf("qemu-img commit -d %[1]s && rm %[1]s", word(delta))
	}
	base := "backing.driver=qcow2,backing.encrypt.format=luks,backing.encrypt.key-secret=key"
	if d.Chain[0].Format == formatLUKS {
		base = "backing.driver=luks,backing.key-secret=key"
	}
	images := fmt.Sprintf("driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.driver=file,file.filename=%s,%s,backing.file.driver=file,backing.file.filename=%s",
		escape(delta), base, escape(d.Chain[0].Path))
	return fmt.Sprintf("qemu-img commit -d --object secret,id=key,file=KEYFILE --image-opts %s && rm %s, where KEYFILE holds the disk's key", word(images), word(delta))
}

// sealed: nobody but its QEMU can merge the delta of an encrypted disk.
func sealed(d snapshot.DiskPlan, delta string) error {
	return snapshot.WithHint(fmt.Errorf("%s is encrypted as its disk is, and holds writes; QEMU, which has the key, has gone: %w", delta, snapshot.ErrMergePending),
		"finish it before the VM is started: "+commitCommand(d, delta))
}

// withoutSecrets is a command line without the keys that stand in it: it goes into the
// journal and into restore points.
func withoutSecrets(argv []string) []string {
	out := slices.Clone(argv)
	for i := 1; i+1 < len(out); i++ {
		if name := strings.TrimLeft(out[i], "-"); name != "object" || !strings.HasPrefix(out[i], "-") {
			continue
		}
		kv := parseKeyval(out[i+1], true)
		if strings.HasPrefix(kv.first("qom-type"), "secret") && kv.has("data") {
			out[i+1] = kv.without("data").String()
		}
	}
	return out
}
