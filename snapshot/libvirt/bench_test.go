package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/libvirttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/qmp"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const diskSize = 4 << 20

// bench is a daemon with one domain, which the cases of a test share. Its "guest" writes by
// qemu-io in QEMU.
type bench struct {
	t      *testing.T // of the case
	whole  *testing.T // of all cases
	daemon *libvirttest.Daemon
	fill   byte // of the last writes
	conn   *rpc.Conn
	dom    *libvirttest.Domain
	paused bool
}

// newBench makes a domain that is stopped at its first instruction, unless it shall run.
func newBench(t *testing.T, paused bool, disks ...guesttest.Disk) *bench {
	t.Helper()
	d := libvirttest.Start(t)
	b := &bench{t: t, whole: t, daemon: d, conn: d.Dial(t), paused: paused}
	b.dom = libvirttest.Define(t, d, b.conn, libvirttest.Options{
		Options: guesttest.Options{Name: "web", Disks: disks, Memory: 64 << 20, Pause: -1},
		OS:      "<type arch='x86_64' machine='q35'>hvm</type>",
	})
	b.edit(func(xml string) string { // nobody in there has an agent
		return strings.Replace(xml, agentChannel, "lull.none", 1)
	})
	return b
}

// edit changes the domain's definition for its next start.
func (b *bench) edit(change func(xml string) string) {
	b.t.Helper()
	text, err := b.conn.XML(b.t.Context(), b.dom.ID, rpc.XMLInactive|rpc.XMLSecure)
	if err == nil {
		_, err = b.conn.Define(b.t.Context(), change(text))
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// start makes sure that the domain runs, or stands still at its first instruction.
func (b *bench) start(t testing.TB) {
	t.Helper()
	var flags uint32
	if b.paused {
		flags = rpc.StartPaused
	}
	eventually(t, "start of the domain", func() error {
		_, err := b.conn.Create(t.Context(), b.dom.ID, flags)
		if err != nil && b.pid() != 0 {
			return nil
		}
		return err
	})
}

// eventually waits until a check succeeds.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within a minute: %v", what, err)
		}
	}
}

// pid of the domain's QEMU; 0: there is none.
func (b *bench) pid() int {
	b.t.Helper()
	pid, err := findPID(b.dom.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	return pid
}

// killQEMU ends the domain's QEMU.
func (b *bench) killQEMU() {
	b.t.Helper()
	pid := b.pid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	eventually(b.t, "end of QEMU", func() error {
		if isDomain(pid, b.dom.ID) {
			return errors.New("it lives")
		}
		return nil
	})
}

// crash kills the domain's QEMU, and waits until libvirt knows.
func (b *bench) crash(t testing.TB) {
	t.Helper()
	b.killQEMU()
	eventually(t, "end of the domain", func() error {
		state, _, err := b.conn.State(t.Context(), b.dom.ID)
		if err == nil && state != rpc.StateShutoff {
			err = fmt.Errorf("state %d", state)
		}
		return err
	})
}

// monitor asks the domain's QEMU.
func (b *bench) monitor(command string, args, result any) error {
	text, err := json.Marshal(map[string]any{"execute": command, "arguments": args})
	if args == nil {
		text = fmt.Appendf(nil, `{"execute":%q}`, command)
	}
	if err != nil {
		return err
	}
	answer, err := b.conn.Monitor(b.t.Context(), b.dom.ID, string(text))
	if err != nil {
		return err
	}
	var said struct {
		Return json.RawMessage
		Error  json.RawMessage
	}
	if err := json.Unmarshal([]byte(answer), &said); err != nil {
		return err
	}
	if said.Error != nil {
		return errors.New(string(said.Error))
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(said.Return, result)
}

// drive is a disk as QEMU shows it.
type drive struct {
	QDev     string `json:"qdev"`
	Inserted *struct {
		Node    string `json:"node-name"`
		File    string `json:"file"`
		Driver  string `json:"drv"`
		Bitmaps []struct {
			Name         string `json:"name"`
			Count        int64  `json:"count"`
			Recording    bool   `json:"recording"`
			Persistent   bool   `json:"persistent"`
			Inconsistent bool   `json:"inconsistent"`
		} `json:"dirty-bitmaps"`
	} `json:"inserted"`
}

// at is the drive of a disk by its target.
func (b *bench) at(target string) (drive, error) {
	text, err := b.conn.XML(b.t.Context(), b.dom.ID, 0)
	if err != nil {
		return drive{}, err
	}
	def, err := parseDisks(text)
	if err != nil {
		return drive{}, err
	}
	disk, _ := def.disk(target)
	var list []drive
	if err := b.monitor("query-block", nil, &list); err != nil {
		return drive{}, err
	}
	i := slices.IndexFunc(list, func(d drive) bool { return strings.Contains(d.QDev+"/", "/"+disk.alias+"/") || d.QDev == disk.alias })
	if i < 0 || list[i].Inserted == nil {
		return drive{}, fmt.Errorf("no drive %s (%s) in %v", target, disk.alias, list)
	}
	return list[i], nil
}

func (b *bench) io(target, command string) error {
	d, err := b.at(target)
	if err != nil {
		return err
	}
	var said string
	err = b.monitor("human-monitor-command", map[string]string{"command-line": fmt.Sprintf("qemu-io -d %s %q", d.QDev, command)}, &said)
	if err == nil && said != "" {
		err = errors.New(said)
	}
	return err
}

func (b *bench) write(disk string, off, length int64, fill byte) error {
	return b.io(disk, fmt.Sprintf("write -f -P %d %d %d", fill, off, length))
}

// content reads a disk as the guest sees it, or will when it starts again.
func (b *bench) content(t testing.TB, disk string) []byte {
	t.Helper()
	text, err := b.conn.XML(t.Context(), b.dom.ID, rpc.XMLInactive)
	if err != nil {
		t.Fatal(err)
	}
	def, err := parseDisks(text)
	if err != nil {
		t.Fatal(err)
	}
	top, format := def.source(disk), formatIn(def.record(disk))
	if b.pid() != 0 {
		if err := b.io(disk, "flush"); err != nil {
			t.Fatal(err)
		}
		d, err := b.at(disk)
		if err != nil {
			t.Fatal(err)
		}
		top, format = d.Inserted.File, d.Inserted.Driver
	}
	out := filepath.Join(b.dom.Dir, "content")
	defer os.Remove(out)
	shell(t, "qemu-img", "convert", "-U", "-f", format, "-O", "raw", top, out)
	content, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func formatIn(record string) string {
	if strings.Contains(record, "type='raw'") {
		return "raw"
	}
	return "qcow2"
}

// quiet is a monitor that says nothing.
type quiet struct{ qmp.Monitor }

func (quiet) Subscribe(names ...string) *qmp.Subscription { return new(qmp.Hub).Subscribe(names...) }

// untold is a commit of which nobody is told.
func untold() qemu.Committing {
	return qemu.Committing{Pivot: func() error { return nil }, Progress: func(int64, int64) error { return nil }}
}

// domain is the bench's, as a manager, over a connection that ends with the case.
func (r *run) domain() *domain {
	d := r.host.domain(identity{r.dom.ID.UUID, r.dom.ID.Name})
	r.t.Cleanup(func() { _ = d.link.end() })
	return d
}

func shell(t testing.TB, name string, arg ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, arg...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, arg, err, out)
	}
	return string(out)
}

func (b *bench) files(t testing.TB) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(b.dom.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() { // sockets come and go with QEMU
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// node is a block node, or a job.
type node struct {
	File string `json:"file"`
	ID   string `json:"id"`
}

// chain is what libvirt and QEMU say of the disks, and what of it must not be a delta.
func (b *bench) chain(t testing.TB) string {
	t.Helper()
	var s strings.Builder
	for _, flags := range []uint32{0, rpc.XMLInactive} {
		text, err := b.conn.XML(t.Context(), b.dom.ID, flags)
		if err != nil {
			t.Fatal(err)
		}
		def, err := parseDisks(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range def.disks {
			fmt.Fprintf(&s, "%s: %s %s mirrored %v\n", d.target, d.source, formatIn(def.record(d.target)), d.mirror)
		}
	}
	if b.pid() == 0 {
		return s.String()
	}
	var nodes, jobs []node
	if err := errors.Join(b.monitor("query-named-block-nodes", map[string]bool{"flat": true}, &nodes), b.monitor("query-jobs", nil, &jobs)); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.File, b.File) }) // their order is that of opening
	fmt.Fprintln(&s, nodes, jobs)
	return s.String()
}

// host makes a host that is closed with the test.
func (b *bench) host(t testing.TB) *Host {
	h := NewHost(b.daemon.Address(), Options{QEMU: qemu.Options{RuntimeDir: b.dom.Dir + "/run", DeltaDir: b.dom.Dir + "/deltas", CheckpointDir: b.dom.Dir + "/trees"}})
	t.Cleanup(func() { h.Close() })
	return h
}

// fixture is the domain for a case of a conformance kit.
func (b *bench) fixture(t *testing.T) *snapshottest.Fixture {
	t.Helper()
	b.start(t)
	h := b.host(t)
	return &snapshottest.Fixture{
		Host: h, VM: "web", Write: b.write, Content: b.content, Files: b.files, Chain: b.chain,
		Reopen: func(t testing.TB) snapshot.Host {
			h.Close()
			return b.host(t)
		},
		Crash: b.crash,
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	b := newBench(t, true, guesttest.Disk{Size: diskSize}, guesttest.Disk{Size: diskSize, Format: snapshot.FormatRaw, Bus: guesttest.VirtioSCSI})
	snapshottest.Run(t, b.fixture)
}

func TestSaverConformance(t *testing.T) {
	t.Parallel()
	b := newBench(t, false, guesttest.Disk{Size: diskSize})
	snapshottest.RunSaver(t, b.fixture)
}
