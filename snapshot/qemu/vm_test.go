package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
	"github.com/lull-backup/lull/snapshot/snapshottest"
	"github.com/lull-backup/lull/snapshot/space"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const diskSize = 4 << 20

// shape is how a VM of a test is put together.
type shape struct {
	format  snapshot.Format
	drive   bool // -drive, not -blockdev
	bus     string
	backing bool // the disks have a backing file
	served  bool // disks are read from QEMU's NBD server
	disks   int
	compat  string // of qcow2 images; empty: the usual
	// luks: the disks are encrypted, as images of the format or, where it is raw, as LUKS
	// containers.
	luks bool
	// newer: by QEMU 10, which packaging/setup.sh unpacks beside the host's own.
	newer bool
}

func (s shape) String() string {
	style := "blockdev"
	if s.drive {
		style = "drive"
	}
	name := fmt.Sprintf("%s-%s-%s-%d", s.format, style, s.bus, s.disks)
	if s.backing {
		name += "-backing"
	}
	if s.served {
		name += "-served"
	}
	if s.compat != "" {
		name += "-compat" + s.compat
	}
	if s.luks {
		name += "-luks"
	}
	if s.newer {
		name += "-qemu10"
	}
	return name
}

// testVM is a QEMU process with two monitors: one for lull, one for the test.
type testVM struct {
	t     testing.TB
	shape shape
	dir   string // everything is here
	boot  []byte // first sector of the disks; nil: nothing to boot
	disks []string
	cmd   *exec.Cmd
	ended chan struct{}
	hands *qmp.Client
	known sync.Once
	drive map[string]block // by the name that lull gives a disk, as at the start
	// ejected: there is no medium in the CD-ROM drive.
	ejected bool
	free    int64    // that deltas leave, as in Options
	deltas  string   // folder for them, as in VM
	wipe    bool     // as in VM
	more    []string // options of QEMU
	extra   string   // of the drive, where there is -drive, else of the device
}

func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is needed: apt-get install %s", name, pkg)
	}
	return path
}

func newerQEMU(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../../.cache/qemu10/bin/qemu-system-x86_64")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("QEMU 10 is needed: packaging/setup.sh qemu10: %v", err)
	}
	return path
}

func shell(t testing.TB, name string, arg ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, arg...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, arg, err, out)
	}
	return string(out)
}

// shortDir is a folder whose path leaves room for the names of sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lull")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newVM(t testing.TB, s shape) *testVM {
	t.Helper()
	return mountedVM(t, s, func(*testVM) {})
}

// mountedVM lets a test set up the folder of the disks before there are any.
func mountedVM(t testing.TB, s shape, setUp func(*testVM)) *testVM {
	t.Helper()
	v := &testVM{t: t, shape: s, dir: shortDir(t)}
	if err := os.Mkdir(filepath.Join(v.dir, "disks"), 0o755); err != nil {
		t.Fatal(err)
	}
	setUp(v)
	if s.luks {
		v.more = append(v.more, "-object", "secret,id=key0,data="+diskKey)
	}
	for i := range s.disks {
		v.disks = append(v.disks, v.makeDisk(i))
	}
	v.start(v.disks)
	t.Cleanup(v.kill)
	return v
}

// inMemory keeps all of a VM's files in memory: a test that kills again and again would
// wait for the disk most of its time. What a process has written outlives it in either.
func inMemory(v *testVM) {
	v.t.Helper()
	smallFS(v.t, v.dir, "1g")
	if err := os.Mkdir(filepath.Join(v.dir, "disks"), 0o755); err != nil {
		v.t.Fatal(err)
	}
}

// makeDisk makes an image with data at its start and a hole behind.
func (v *testVM) makeDisk(i int) string {
	v.t.Helper()
	tool(v.t, "qemu-img", "qemu-utils")
	path := filepath.Join(v.dir, "disks", fmt.Sprintf("disk %d, x.%s", i, v.shape.format)) // a name to be quoted
	plain := filepath.Join(v.dir, "plain.raw")
	content := make([]byte, diskSize)
	for j := range 300_000 {
		content[j] = byte(j>>8 + i + j)
	}
	copy(content, v.boot)
	if err := os.WriteFile(plain, content, 0o644); err != nil {
		v.t.Fatal(err)
	}
	defer os.Remove(plain)
	if v.shape.backing {
		golden := filepath.Join(v.dir, "disks", fmt.Sprintf("golden%d.qcow2", i))
		shell(v.t, "qemu-img", "convert", "-O", "qcow2", plain, golden)
		shell(v.t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", golden, "-F", "qcow2", path)
		return path
	}
	options := []string{"convert", "-f", "raw", "-O", string(v.shape.format), plain, path}
	switch {
	case v.shape.luks:
		return v.makeLUKS(plain, path)
	case v.shape.compat != "":
		options = slices.Insert(options, 5, "-o", "compat="+v.shape.compat)
	}
	shell(v.t, "qemu-img", options...)
	return path
}

// arguments is the command line for these images.
func (v *testVM) arguments(images []string, format snapshot.Format) []string {
	a := []string{"-machine", "q35", "-accel", "tcg", "-m", "64", "-S", "-display", "none", "-nodefaults",
		"-qmp", "unix:" + v.dir + "/qmp,server=on,wait=off", "-qmp", "unix:" + v.dir + "/hands,server=on,wait=off"}
	a = append(a, v.more...)
	switch v.shape.bus {
	case "scsi":
		a = append(a, "-device", "virtio-scsi-pci,id=scsi0")
	case "iothread":
		a = append(a, "-object", "iothread,id=io0")
	}
	for i, image := range images {
		image, id := escape(image), fmt.Sprintf("disk%d", i)
		device := map[string]string{"virtio": "virtio-blk-pci", "scsi": "scsi-hd", "iothread": "virtio-blk-pci,iothread=io0"}[v.shape.bus]
		if v.shape.drive {
			if i%2 == 1 && v.shape.bus == "virtio" {
				a = append(a, "-drive", fmt.Sprintf("file=%s,format=%s,if=virtio", image, format))
				continue
			}
			a = append(a, "-drive", fmt.Sprintf("file=%s,format=%s,if=none,id=drive%d%s", image, format, i, v.extra),
				"-device", fmt.Sprintf("%s,drive=drive%d", device, i))
			continue
		}
		a = append(a, "-blockdev", fmt.Sprintf("driver=file,node-name=file%d,filename=%s", i, image),
			"-blockdev", fmt.Sprintf("driver=%s,node-name=fmt%d,file=file%d%s", v.driver(format), i, i, v.keyed()),
			"-device", fmt.Sprintf("%s,id=%s,drive=fmt%d%s", device, id, i, v.extra))
	}
	if v.ejected { // of an empty drive at AHCI the BIOS waits for half a minute with QEMU 10
		return append(a, "-device", "virtio-scsi-pci,id=scsi-cd", "-device", "scsi-cd,id=cd0,bus=scsi-cd.0")
	}
	return append(a, "-blockdev", "driver=null-co,node-name=cdrom,read-only=on,size=65536",
		"-device", "ahci,id=sata", "-device", "ide-cd,id=cd0,bus=sata.0,drive=cdrom")
}

// start starts QEMU with images in the place of its disks.
func (v *testVM) start(images []string) { v.startWith(v.arguments(images, v.shape.format)) }

func (v *testVM) startWith(arguments []string) {
	v.t.Helper()
	program := tool(v.t, "qemu-system-x86_64", "qemu-system-x86")
	if v.shape.newer {
		program = newerQEMU(v.t)
	}
	v.launch(exec.Command(program, arguments...))
}

// launch starts a process and connects the test's own monitor.
func (v *testVM) launch(cmd *exec.Cmd) {
	v.t.Helper()
	var said bytes.Buffer
	cmd.Stderr = io.MultiWriter(&said, os.Stderr)
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // it is always killed
	v.cmd, v.ended = cmd, ended
	eventually(v.t, "QEMU's monitor", func() bool {
		select {
		case <-ended:
			v.t.Fatalf("QEMU ended: %s", said.String())
		default:
		}
		c, err := qmp.Dial(v.t.Context(), v.dir+"/hands", qmp.Options{})
		v.hands = c
		return err == nil
	})
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func (v *testVM) kill() {
	_ = v.cmd.Process.Kill() // it may have ended
	<-v.ended
	v.hands.Close()
}

func (v *testVM) ask(command string, a, result any) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(v.t.Context()), time.Minute)
	defer cancel()
	if err := v.hands.Execute(ctx, command, a, result); err != nil {
		v.t.Errorf("%s: %v", command, err)
	}
}

func (v *testVM) blocks() []block {
	v.t.Helper()
	var list []block
	v.ask("query-block", nil, &list)
	return slices.DeleteFunc(list, func(b block) bool { return b.QDev == "cd0" })
}

// at is the drive of a disk as it was at the start.
func (v *testVM) at(disk string) block {
	v.t.Helper()
	v.known.Do(func() {
		v.drive = map[string]block{}
		for i, b := range v.blocks() {
			v.drive[diskName(b, i, map[string]bool{})] = b
		}
	})
	return v.drive[disk]
}

// io runs a command of qemu-io on a disk, as its device would.
func (v *testVM) io(disk, command string) error {
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	var said string
	err := v.hands.Execute(ctx, "human-monitor-command",
		args{"command-line": fmt.Sprintf("qemu-io -d %s \"%s\"", v.at(disk).QDev, command)}, &said)
	if err == nil && said != "" {
		return errors.New(said)
	}
	return err
}

func (v *testVM) write(disk string, off, length int64, fill byte) error {
	return v.io(disk, fmt.Sprintf("write -f -P %d %d %d", fill, off, length))
}

// content reads a disk from its files, with qemu-img.
func (v *testVM) content(t testing.TB, disk string) []byte {
	t.Helper()
	top, format := "", string(v.shape.format)
	select {
	case <-v.ended:
		top = v.at(disk).Inserted.File
	default:
		if err := v.io(disk, "flush"); err != nil {
			t.Fatalf("flush %s: %v", disk, err)
		}
		for _, b := range v.blocks() {
			if b.QDev == v.at(disk).QDev {
				top, format = b.Inserted.File, b.Inserted.Driver
			}
		}
	}
	out := filepath.Join(v.dir, "content")
	defer os.Remove(out)
	shell(t, "qemu-img", "convert", "-U", "-f", format, "-O", "raw", top, out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (v *testVM) files(t testing.TB) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(v.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// chain is everything that QEMU says of its block layer.
func (v *testVM) chain(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, d := range v.blocks() {
		fmt.Fprintf(&b, "%s: %s %s depth %d ro %v\n", d.QDev, d.Inserted.Node, d.Inserted.File, d.Inserted.Depth, d.Inserted.ReadOnly)
	}
	var nodes []inserted
	var jobs []job
	var exports []export
	v.ask("query-named-block-nodes", args{"flat": true}, &nodes)
	v.ask("query-jobs", nil, &jobs)
	v.ask("query-block-exports", nil, &exports)
	for _, n := range nodes {
		fmt.Fprintf(&b, "node %s %s\n", n.Node, n.File)
	}
	fmt.Fprintln(&b, jobs, exports)
	return b.String()
}

func (v *testVM) options() Options {
	return Options{RuntimeDir: v.dir + "/run", DeltaDir: v.dir + "/deltas", CheckpointDir: v.dir + "/trees", Space: space.LeaveFree(v.free), Served: v.shape.served}
}

// host makes a host that is closed with the test.
func (v *testVM) host() *Host {
	h := NewHost([]VM{{Name: "web", QMP: v.dir + "/qmp", DeltaDir: v.deltas, Wipe: v.wipe}}, v.options())
	v.t.Cleanup(func() { h.Close() })
	return h
}

func (v *testVM) fixture() *snapshottest.Fixture {
	h := v.host()
	return &snapshottest.Fixture{
		Host: h, VM: "web", Write: v.write, Content: v.content, Files: v.files, Chain: v.chain,
		Reopen: func(testing.TB) snapshot.Host {
			h.Close()
			return v.host()
		},
		Crash: func(testing.TB) { v.kill() },
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for i, s := range []shape{
		{format: snapshot.FormatQcow2, bus: "virtio", disks: 2},
		{format: snapshot.FormatRaw, bus: "virtio", disks: 1},
		{format: snapshot.FormatQcow2, drive: true, bus: "virtio", disks: 2, served: true},
		{format: snapshot.FormatRaw, drive: true, bus: "scsi", disks: 2, served: true},
		{format: snapshot.FormatQcow2, bus: "scsi", disks: 1, backing: true},
		{format: snapshot.FormatVHDX, bus: "virtio", disks: 1},
		{format: snapshot.FormatQcow2, bus: "iothread", disks: 1, backing: true},
	} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			setUp := inMemory
			if i < 2 { // on what users have their disks on
				setUp = func(*testVM) {}
			}
			snapshottest.Run(t, func(t *testing.T) *snapshottest.Fixture { return mountedVM(t, s, setUp).fixture() })
		})
	}
}
