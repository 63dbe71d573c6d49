package main

import (
	"bytes"
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// diskKey is the key of encrypted disks.
const diskKey = "staple-battery-horse"

// encryptedMachine has a file system with a file on its encrypted disk, and room behind it.
func encryptedMachine(t *testing.T, format snapshot.Format) *machine {
	return machineOn(t, format, func(m *machine) {
		plain, files, key := filepath.Join(m.dir, "plain"), filepath.Join(m.dir, "files"), filepath.Join(m.dir, "key")
		noise := make([]byte, 8<<20)
		rand.Read(noise) // never fails
		if err := os.Mkdir(files, 0o700); err != nil {
			t.Fatal(err)
		}
		m.write(filepath.Join(files, "ledger"), string(noise))
		m.write(key, diskKey)
		m.tool("mke2fs", "-q", "-t", "ext4", "-d", files, plain, "32M")
		m.tool("truncate", "-s", "96M", plain)
		upon, options := "qcow2", "encrypt.format=luks,encrypt.key-secret=disk,encrypt.iter-time=10,encrypt.hash-alg=sha512"
		m.upon = "driver=qcow2,encrypt.format=luks,encrypt.key-secret=disk"
		if format == snapshot.FormatRaw {
			upon, options, m.upon = "luks", "key-secret=disk,iter-time=10,hash-alg=sha512", "driver=luks,key-secret=disk"
		}
		m.more = []string{"-object", "secret,id=disk,file=" + key}
		m.tool("qemu-img", "convert", "--object", m.more[1], "-f", "raw", "-O", upon, "-o", options, plain, m.image)
	})
}

// An encrypted disk is backed up as its guest sees it, by what has changed where QEMU can tell,
// and comes back whole, in the clear, which lull says, with the command that encrypts it.
func TestEncryptedDisk(t *testing.T) {
	t.Parallel()
	for _, format := range []snapshot.Format{snapshot.FormatQcow2, snapshot.FormatRaw} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			m := encryptedMachine(t, format)
			first := m.backup(exitWarnings)
			if d := first.Point.Disks[0]; !d.Encrypted || !strings.Contains(strings.Join(first.Warnings, "\n"), "not encrypted") {
				t.Errorf("the first point: %+v, %q", d, first.Warnings)
			}
			if format == snapshot.FormatQcow2 { // the record is in the image
				m.quit()
				m.start()
			}
			m.io("write -P 5 80M 1M")
			second := m.backup(exitDone)
			if d := second.Point.Disks[0]; !d.Encrypted || !d.Tracking.Used || d.Tracking.Changed != 1<<20 || second.Point.Stats.Read > 24<<20 {
				t.Errorf("the second point: %+v, %d bytes read", d, second.Point.Stats.Read)
			}
			m.quit()
			if format == snapshot.FormatQcow2 { // lull takes no keys
				m.complains(exitFailed, []string{"encrypted image (LUKS)", "QEMU has the key"}, "backup", "--image", m.image, "--repository", "main")
			}
			m.comesBackPlain()
		})
	}
}

// sealed are the options with which the encrypted image is opened.
func (m *machine) sealed(path string) []string {
	return []string{"--object", m.more[1], "--image-opts", m.upon + ",file.driver=file,file.filename=" + path}
}

// comesBackPlain restores the last point and looks at it.
func (m *machine) comesBackPlain() {
	m.t.Helper()
	to := filepath.Join(m.dir, "restored")
	code, _, said := m.attempt(m.ctx, "restore", "lab/web", "--to", to)
	if code != exitDone || !strings.Contains(said, "disk root was encrypted by QEMU, and") {
		m.t.Fatalf("restore: exit code %d: %s", code, said)
	}
	disk, truth := filepath.Join(to, filepath.Base(m.image)), filepath.Join(m.dir, "truth")
	m.tool("qemu-img", append([]string{"convert"}, append(m.sealed(m.image), "-O", "raw", truth)...)...)
	m.tool("qemu-img", "compare", "-f", "raw", "-F", string(m.format), truth, disk)
	m.tool("e2fsck", "-f", "-n", truth)
	if m.format == snapshot.FormatRaw { // of either it takes QEMU seconds
		m.encrypts(said, disk, truth)
	}
	m.silent(filepath.Join(m.dir, "repo"), filepath.Join(m.dir, "state"), to)
	if err := os.Remove(filepath.Join(m.dir, "key")); err != nil { // as on another host
		m.t.Fatal(err)
	}
	m.startsPlain(to)
}

// encrypts does what a restore advises, word by word.
func (m *machine) encrypts(said, disk, truth string) {
	m.t.Helper()
	_, command, _ := strings.Cut(said, "to encrypt it: ")
	command, _, _ = strings.Cut(command, ", where")
	command = strings.Replace(command, "KEYFILE", filepath.Join(m.dir, "key"), 1)
	m.tool("qemu-img", strings.Fields(command)[1:]...)
	m.upon = "driver=qcow2,encrypt.format=luks,encrypt.key-secret=disk"
	again := filepath.Join(m.dir, "again")
	m.tool("qemu-img", append([]string{"convert"}, append(m.sealed(disk+".luks"), "-O", "raw", again)...)...)
	m.tool("cmp", again, truth)
}

// silent fails where a file holds the key.
func (m *machine) silent(dirs ...string) {
	m.t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, []byte(diskKey)) {
				m.t.Errorf("%s holds the disk's key", path)
			}
			return err
		})
		if err != nil {
			m.t.Error(err)
		}
	}
}

// startsPlain starts the restored VM, which knows of no key any more.
func (m *machine) startsPlain(dir string) {
	m.t.Helper()
	_, ended := m.lab.start(dir)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := qmp.Dial(m.ctx, filepath.Join(dir, "qmp.sock"), qmp.Options{})
		if err == nil {
			defer c.Close()
			m.readsPlain(c)
			return
		}
		select {
		case <-tick.C:
		case <-ended:
			m.t.Fatal("the restored VM has ended")
		case <-m.ctx.Done():
			m.t.Fatal("the restored VM does not come up")
		}
	}
}

func (m *machine) readsPlain(c *qmp.Client) {
	m.t.Helper()
	var drives []struct {
		Inserted struct {
			Encrypted bool `json:"encrypted"`
		} `json:"inserted"`
	}
	if err := c.Execute(m.ctx, "query-block", nil, &drives); err != nil || len(drives) != 1 || drives[0].Inserted.Encrypted {
		m.t.Errorf("drives: %+v, %v", drives, err)
	}
	var said string
	err := c.Execute(m.ctx, "human-monitor-command",
		map[string]any{"command-line": `qemu-io -d /machine/peripheral/root/virtio-backend "read -P 5 80M 1M"`}, &said)
	if err != nil || !strings.Contains(said, "read 1048576/1048576") && said != "" || strings.Contains(said, "failed") {
		m.t.Errorf("read: %v %s", err, said)
	}
}
