// Command recorder runs inside a test guest: it writes the log of package record
// on the guest's disks all the time, or checks it.
//
//	recorder run [-pause D] [-state DIR] [-port DEVICE] FOLDER...
//	recorder verify FOLDER...
//
// run first stores what it found, before it writes anything, as JSON in
// STATE/found.json. It then keeps the last acknowledged number in STATE/acked
// and sends each number as a line to the virtio port, where there is one. verify
// prints a record.Report as JSON; it fails only when a log cannot be read.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot/guesttest/record"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "recorder:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: recorder run|verify [flags] FOLDER [FOLDER...]")

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "run":
		return write(ctx, args[1:])
	case "verify":
		return verify(args[1:])
	}
	return errUsage
}

func verify(dirs []string) error {
	if len(dirs) == 0 {
		return errUsage
	}
	r, err := record.Verify(dirs, record.DefaultCapacity)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func write(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("recorder run", flag.ContinueOnError)
	pause := flags.Duration("pause", 5*time.Millisecond, "time between two records")
	state := flags.String("state", "/run/recorder", "folder for found.json and acked")
	port := flags.String("port", "", "virtio port that hears each acknowledged number")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 || *pause <= 0 {
		return errUsage
	}
	w, found, err := record.Open(flags.Args(), record.DefaultCapacity)
	if err != nil {
		return err
	}
	defer w.Close()
	a, err := newAcks(*state, *port, found)
	if err != nil {
		return err
	}
	defer a.close()
	return w.Run(ctx, *pause, a.acked)
}

// acks tells the world which records are durable.
type acks struct {
	state string
	port  string // virtio port; empty: none
	fd    int    // of the open port; -1: not open
}

func newAcks(state, port string, found record.Report) (*acks, error) {
	if err := os.MkdirAll(state, 0o755); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	a := &acks{state: state, port: port, fd: -1}
	b, err := json.Marshal(found)
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	return a, a.replace("found.json", b)
}

// acked publishes n.
func (a *acks) acked(n uint64) error {
	line := strconv.AppendUint(nil, n, 10)
	if err := a.replace("acked", line); err != nil {
		return err
	}
	return a.send(append(line, '\n'))
}

// send is a courtesy: a line may get lost while the port is not there yet, or
// nobody is at its other end. The recorder must not stop for that.
func (a *acks) send(line []byte) error {
	var err error
	if a.fd < 0 && a.port != "" {
		a.fd, err = unix.Open(a.port, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("open port %s: %w", a.port, err)
		}
	}
	if a.fd < 0 {
		return nil
	}
	if _, err := unix.Write(a.fd, line); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("write to port: %w", err)
	}
	return nil
}

// replace puts a file into the state folder in one step, so that a reader never
// sees half of it.
func (a *acks) replace(name string, data []byte) error {
	path := filepath.Join(a.state, name)
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replace state: %w", err)
	}
	return nil
}

func (a *acks) close() {
	if a.fd >= 0 {
		unix.Close(a.fd)
	}
}
