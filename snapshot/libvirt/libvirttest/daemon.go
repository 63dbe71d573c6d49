package libvirttest

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// startLimit is how long a daemon may take to listen on a machine that is busy with
// others.
const startLimit = 2 * time.Minute

// Daemon is a libvirtd that this process owns.
type Daemon struct {
	Dir    string // holds all that it writes
	Socket string

	first   *process // of the namespaces
	libvirt *process // nsenter, which ends with libvirtd
	cache   string
}

// folders are the daemon's own in place of the host's, by their names in Dir.
func folders() map[string]string {
	return map[string]string{
		"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt",
		"log": "/var/log/libvirt", "run": "/run/libvirt",
	}
}

// Start starts a daemon for a test; it ends with the test, and what it said is shown
// when the test failed.
func Start(t testing.TB) *Daemon {
	t.Helper()
	// t.TempDir has the test's name in it, which is too long for sockets.
	dir, err := os.MkdirTemp("", "lull-virt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cache, err := guesttest.CacheDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Dir: dir, Socket: filepath.Join(dir, "run", "libvirt-sock"), cache: filepath.Join(filepath.Dir(cache), "libvirt")}
	t.Cleanup(func() {
		d.Kill()
		d.end()
		if t.Failed() {
			t.Log(d.logs())
		}
	})
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// start starts the daemon. The first one ever finds out what QEMU can do, which takes long,
// while others wait for what it finds.
func (d *Daemon) start(ctx context.Context) error {
	if !d.knows() {
		unlock, err := d.lock()
		if err != nil {
			return err
		}
		defer unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := errors.Join(d.layOut(), d.isolate(ctx)); err != nil {
		return err
	}
	if err := d.Restart(ctx); err != nil || d.knows() {
		return err
	}
	c, err := rpc.Dial(ctx, d.Address(), rpc.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Capabilities(ctx); err != nil {
		return err
	}
	return d.remember()
}

// Address of the daemon.
func (d *Daemon) Address() rpc.Address {
	return rpc.Address{Driver: rpc.DefaultURI, Socket: d.Socket}
}

// Outside is where a file of the daemon's own folders is for everyone else.
func (d *Daemon) Outside(path string) string {
	for name, inside := range folders() {
		if rest, ok := strings.CutPrefix(path, inside+"/"); ok {
			return filepath.Join(d.Dir, name, rest)
		}
	}
	return path
}

// Dial connects to the daemon until the end of the test.
func (d *Daemon) Dial(t testing.TB) *rpc.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	c, err := rpc.Dial(ctx, d.Address(), rpc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// layOut makes the daemon's folders and settings.
func (d *Daemon) layOut() error {
	for name := range folders() {
		if err := os.Mkdir(filepath.Join(d.Dir, name), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"qemu.conf": qemuConf, "libvirtd.conf": fmt.Sprintf(daemonConf, hostUUID())} {
		if err := os.WriteFile(filepath.Join(d.Dir, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if !d.knows() {
		return nil
	}
	return os.CopyFS(filepath.Join(d.Dir, "cache", "qemu"), os.DirFS(filepath.Join(d.cache, "qemu")))
}

// The settings go together: QEMU runs as the daemon does, without a sandbox of users,
// mounts, labels and control groups.
const qemuConf = `user = "root"
group = "root"
swtpm_user = "root"
swtpm_group = "root"
namespaces = []
security_driver = "none"
remember_owner = 0
dynamic_ownership = 0
stdio_handler = "file"
cgroup_controllers = []
`

const daemonConf = `auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
host_uuid = "%s"
`

// hostUUID tells daemons apart, each of which is a host: domains can move between them.
func hostUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// mounts is what the first process does. A folder that the host does not have is
// made in a layer over its parents.
const mounts = `set -e
hostname "$(basename "$1" | tr -c 'a-z0-9\n' -)"
shift
mount --make-rprivate /
mount -t proc proc /proc
layers=$1
shift
mount -t tmpfs tmpfs "$layers"
mount -t tmpfs tmpfs /run
mkdir /run/libvirt
for pair; do
	inside=${pair#*:}
	if [ ! -d "$inside" ]; then
		top=/$(echo "$inside" | cut -d/ -f2)
		mkdir -p "$layers$top/upper" "$layers$top/work"
		mount -t overlay overlay -o "lowerdir=$top,upperdir=$layers$top/upper,workdir=$layers$top/work" "$top"
		mkdir -p "$inside"
	fi
	mount --bind "${pair%%:*}" "$inside"
done
echo ready
while :; do sleep 100000; done
`

// isolate starts the first process of the namespaces.
func (d *Daemon) isolate(ctx context.Context) error {
	layers := filepath.Join(d.Dir, "layers")
	if err := os.Mkdir(layers, 0o755); err != nil {
		return err
	}
	args := []string{"-c", mounts, "sh", strings.ToLower(d.Dir), layers}
	for name, inside := range folders() {
		args = append(args, filepath.Join(d.Dir, name)+":"+inside)
	}
	cmd := exec.Command("/bin/sh", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if d.first, err = spawn(filepath.Join(d.Dir, "first.log"), cmd); err != nil {
		return fmt.Errorf("start namespaces: %w", err)
	}
	line := make(chan string, 1)
	go func() {
		s, _ := bufio.NewReader(said).ReadString('\n') // what it could not read is not what it should have
		line <- s
	}()
	select {
	case s := <-line:
		if s == "ready\n" {
			return nil
		}
		d.end()
		return fmt.Errorf("make namespaces for libvirtd: %s (it needs root, or user namespaces)", d.logs())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Restart starts libvirtd, after Kill or for the first time, and waits until it listens.
func (d *Daemon) Restart(ctx context.Context) error {
	if d.running() {
		return errors.New("start libvirtd: it runs already")
	}
	for _, name := range []string{"nsenter", "libvirtd"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%w: install libvirt-daemon, libvirt-daemon-driver-qemu and util-linux", err)
		}
	}
	_ = os.Remove(d.Socket) // of one that was killed: what answers now is the new one
	cmd := exec.Command("nsenter", "--target", strconv.Itoa(d.first.cmd.Process.Pid), "--mount", "--pid", "--net", "--ipc", "--uts",
		"libvirtd", "--config", "/etc/libvirt/libvirtd.conf")
	if os.Geteuid() != 0 {
		cmd.Args = append([]string{"nsenter", "--user", "--preserve-credentials"}, cmd.Args[1:]...)
	}
	var err error
	if d.libvirt, err = spawn(filepath.Join(d.Dir, "libvirtd.log"), cmd); err != nil {
		return fmt.Errorf("start libvirtd: %w", err)
	}
	return d.poll(ctx, func() error {
		c, err := rpc.Dial(ctx, d.Address(), rpc.Options{})
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// poll waits until check succeeds, as long as libvirtd runs.
func (d *Daemon) poll(ctx context.Context, check func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-d.libvirt.done:
			return fmt.Errorf("libvirtd ended: %v\n%s", d.libvirt.err, d.logs())
		case <-ctx.Done():
			return fmt.Errorf("wait for libvirtd: %w: %w\n%s", ctx.Err(), err, d.logs())
		case <-tick.C:
		}
	}
}

func (d *Daemon) running() bool {
	if d.libvirt == nil {
		return false
	}
	select {
	case <-d.libvirt.done:
		return false
	default:
		return true
	}
}

// Kill ends libvirtd as a crash would, and waits for it; its guests run on. Safe to call at
// any time.
func (d *Daemon) Kill() {
	if d.running() {
		d.signal(syscall.SIGKILL)
		<-d.libvirt.done
	}
}

// Freeze stops libvirtd, as if it hung; Unfreeze lets it go on.
func (d *Daemon) Freeze() { d.signal(syscall.SIGSTOP) }

// Unfreeze lets libvirtd go on. nsenter has stopped with it.
func (d *Daemon) Unfreeze() {
	d.signal(syscall.SIGCONT)
	_ = syscall.Kill(d.libvirt.cmd.Process.Pid, syscall.SIGCONT) // it may have ended by itself
}

// signal goes to libvirtd, the child of nsenter, and where there is none to that.
func (d *Daemon) signal(s syscall.Signal) {
	pid := d.libvirt.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err == nil {
		if child, err := strconv.Atoi(strings.TrimSpace(string(children))); err == nil {
			_ = syscall.Kill(child, s) // it may have ended by itself
			return
		}
	}
	_ = syscall.Kill(pid, s)
}

// end ends all that runs in the namespaces.
func (d *Daemon) end() {
	if d.first != nil {
		_ = d.first.cmd.Process.Kill() // it may have ended by itself
		<-d.first.done
	}
}

func (d *Daemon) logs() string {
	var b strings.Builder
	for _, name := range []string{"first.log", "libvirtd.log"} {
		log, err := os.ReadFile(filepath.Join(d.Dir, name))
		if err == nil {
			fmt.Fprintf(&b, "--- %s\n%s\n", name, log[max(0, len(log)-8<<10):])
		}
	}
	qemu, err := filepath.Glob(filepath.Join(d.Dir, "log", "qemu", "*.log"))
	if err != nil {
		return b.String()
	}
	for _, path := range qemu {
		log, err := os.ReadFile(path)
		if err == nil {
			fmt.Fprintf(&b, "--- %s\n%s\n", filepath.Base(path), log[max(0, len(log)-4<<10):])
		}
	}
	return b.String()
}

// process is one run of a program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; then err is set
	err  error
}

// spawn starts a program that the kernel ends when this process ends. The thread that
// starts it must live as long as it does, so one goroutine is tied to a thread and waits.
func spawn(log string, cmd *exec.Cmd) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.done)
		defer out.Close()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	return p, <-started
}
