// Package writertest is what the tests of the writers have in common.
package writertest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lull-backup/lull/plugins/plugintest"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// ServedArg makes the test binary the plugin, as lull's own binary is. Settings may follow.
const ServedArg = "plugin-serve"

// Main is TestMain of a package with a writer. It does not return.
func Main(m *testing.M, serve func(settings string) error) {
	if len(os.Args) < 2 || os.Args[1] != ServedArg {
		os.Exit(m.Run())
	}
	if err := serve(strings.Join(os.Args[2:], "")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Self is the program of the test, which Main makes the plugin.
func Self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// What a guest says that has all files on one disk: on a partition of it, and on all of it.
const (
	PartitionedDisk = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\nblock 254:0 /sys/devices/pci0000:00/virtio1/block/vda\nblock 254:1 /sys/devices/pci0000:00/virtio1/block/vda/vda1\n"
	WholeDisk       = "22 1 254:0 / / rw - ext4 /dev/vda rw\nblock 254:0 /sys/devices/pci0000:00/virtio1/block/vda\n"
)

// Here is this machine as a guest: its programs have further variables, and its disks are
// those of a VM.
type Here struct {
	plugintest.Guest
	Env   []string
	Disks string
}

// NewHere has all files on one disk.
func NewHere(env ...string) *Here {
	return &Here{Guest: plugintest.Here(), Env: env, Disks: PartitionedDisk}
}

// Exec runs a program here.
func (h *Here) Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	if strings.Contains(strings.Join(c.Args, " "), "/proc/self/mountinfo") {
		return snapshot.ExecResult{Stdout: []byte(h.Disks)}, nil
	}
	c.Env = append(c.Env, h.Env...)
	return h.Guest.Exec(ctx, c)
}

// Play is a guest that has an answer to each command, by what that has in it. One that
// begins with "fails: " is said by a program that fails.
type Play struct {
	*quiescetest.Guest
	Answers map[string]string
}

// NewPlay is a guest with these answers.
func NewPlay(answers map[string]string) *Play {
	return &Play{Guest: quiescetest.NewGuest(), Answers: answers}
}

// Exec answers.
func (p *Play) Exec(_ context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	all := strings.Join(c.Args, " ")
	for words, answer := range p.Answers {
		if strings.Contains(all, words) {
			if said, bad := strings.CutPrefix(answer, "fails: "); bad {
				return snapshot.ExecResult{ExitCode: 1, Stderr: []byte(said)}, nil
			}
			return snapshot.ExecResult{Stdout: []byte(answer)}, nil
		}
	}
	return snapshot.ExecResult{}, nil
}
