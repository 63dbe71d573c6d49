package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot/guesttest"
)

// Names in the demo's folder.
const (
	configFile  = "lull.yaml"
	secretFile  = "passphrase"
	agentLog    = "agent.log"
	bootLog     = "boot.log"
	vmDir       = "vm"
	restoredDir = "elsewhere"
)

// demo is one showing.
type demo struct {
	lull  string // binary
	dir   string
	began time.Time
	steps int

	guest *guesttest.Guest
	agent *agentProcess
	boot  *exec.Cmd // the restored VM
	acks  *ackWatch
	facts facts
}

func newDemo(lull, dir string) *demo { return &demo{lull: lull, dir: dir, began: time.Now()} }

func (d *demo) in(name string) string { return filepath.Join(d.dir, name) }

// play runs all acts, and stops at the first that goes wrong.
func (d *demo) play(ctx context.Context) error {
	fmt.Printf("lull backs up a running VM, the VM is destroyed, and lull brings it back.\nEverything happens in %s.\n", d.dir)
	for _, act := range []func(context.Context) error{
		d.bootVM, d.prepareLull, d.watchRun, d.destroyVM, d.restore, d.bootElsewhere, d.prove,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return d.summary(ctx)
}

// step announces an act.
func (d *demo) step(format string, args ...any) {
	d.steps++
	fmt.Printf("\n%d. %s\n", d.steps, fmt.Sprintf(format, args...))
}

func say(format string, args ...any) { fmt.Printf("   %s\n", fmt.Sprintf(format, args...)) }

func (d *demo) bootVM(ctx context.Context) error {
	d.step("Boot a VM: Debian's kernel, a guest agent, two ext4 disks of 512 MiB in qcow2.")
	start := time.Now()
	cache, err := guesttest.CacheDir(ctx)
	if err != nil {
		return err
	}
	image, err := guesttest.Build(ctx, cache)
	if err != nil {
		return err
	}
	if err := os.Mkdir(d.in(vmDir), 0o700); err != nil {
		return fmt.Errorf("make VM folder: %w", err)
	}
	content, err := sampleFiles(ctx)
	if err != nil {
		return err
	}
	disk := guesttest.Disk{Size: 512 << 20, Content: content}
	d.guest, err = guesttest.Create(ctx, image, d.in(vmDir), guesttest.Options{
		Name: "web", Disks: []guesttest.Disk{disk, disk}, Pause: 10 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	if err := d.guest.Start(ctx); err != nil {
		return err
	}
	if err := d.guest.WaitReady(ctx); err != nil {
		return err
	}
	d.acks = watchAcks(d.guest)
	say("It is up after %s. A program in it writes numbered, checksummed records to both", seconds(time.Since(start)))
	say("disks with fsync, all the time, and says of each when it is safe on both.")
	return nil
}

// sampleFiles is a folder of real files that is there on any machine that can
// build this: Go's own source. Both disks hold it, so that there is something to
// deduplicate.
func sampleFiles(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find sample files: %w", err)
	}
	return filepath.EvalSymlinks(filepath.Join(strings.TrimSpace(string(out)), "src", "cmd"))
}

const configText = `repositories:
  main: {dir: %[1]s/repository, passphrase_file: %[1]s/passphrase}
hosts:
  lab: {qemu: {vms: [{name: web, qmp: %[2]s, guest_agent: %[3]s}]}}
groups:
  nightly:
    vms: ["*"]
    repository: main
    schedule: "* * * * *"     # every minute; a real one says "30 1 * * *"
    consistency: {ladder: [filesystem, crash], floor: filesystem}
    keep: {last: 3, daily: 14}
agent: {state_dir: %[1]s/state, cache_dir: %[1]s/cache, socket: %[1]s/agent.sock}
`

func (d *demo) prepareLull(ctx context.Context) error {
	d.step("Make a repository in a folder and start the agent with a schedule.")
	if err := os.WriteFile(d.in(secretFile), []byte(rand.Text()+"\n"), 0o600); err != nil {
		return fmt.Errorf("write passphrase: %w", err)
	}
	text := fmt.Sprintf(configText, d.dir, d.guest.QMP, d.guest.Agent)
	if err := os.WriteFile(d.in(configFile), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	for line := range strings.Lines(strings.ReplaceAll(text, d.dir, "...")) {
		fmt.Print("     | ", line)
	}
	if _, err := d.call(ctx, "init", "--repository", "main"); err != nil {
		return err
	}
	if _, err := d.call(ctx, "vms"); err != nil {
		return err
	}
	return d.startAgent()
}

// call runs lull with the demo's configuration, shows the command and what it
// printed, and returns that.
func (d *demo) call(ctx context.Context, args ...string) ([]byte, error) {
	fmt.Printf("   $ lull --config lull.yaml %s\n", strings.ReplaceAll(strings.Join(args, " "), d.dir+"/", ""))
	out, err := d.ask(ctx, args...)
	for line := range strings.Lines(strings.ReplaceAll(string(out), d.dir+"/", "")) {
		fmt.Print("     ", line)
	}
	return out, err
}

// ask is call without showing anything.
func (d *demo) ask(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.lull, append([]string{"--config", d.in(configFile)}, args...)...)
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, fmt.Errorf("lull %s: %w: %s", args[0], err, exit.Stderr)
	}
	return out, fmt.Errorf("lull %s: %w", args[0], err)
}

func (d *demo) destroyVM(context.Context) error {
	d.step("Destroy the VM and its disks, while it writes.")
	d.guest.Kill()
	last, err := d.guest.Acked()
	if err != nil {
		return err
	}
	d.facts.lastEver = last
	d.acks.stop()
	if err := os.RemoveAll(d.in(vmDir)); err != nil {
		return fmt.Errorf("delete VM: %w", err)
	}
	d.guest = nil
	say("QEMU is killed and its folder deleted. The last record that it ever wrote is %d.", last)
	return nil
}

func (d *demo) restore(ctx context.Context) error {
	d.step("Restore the VM into another folder, as on another host.")
	start := time.Now()
	if _, err := d.call(ctx, "restore", "lab/web", "--to", d.in(restoredDir)); err != nil {
		return err
	}
	d.facts.restore = time.Since(start)
	return nil
}

// end stops whatever runs still. Safe at any point of the demo.
func (d *demo) end() {
	if d.acks != nil {
		d.acks.stop()
	}
	if d.agent != nil {
		d.agent.kill()
	}
	if d.guest != nil {
		d.guest.Kill()
	}
	d.endBoot()
}

func seconds(t time.Duration) string { return fmt.Sprintf("%.1f s", t.Seconds()) }
