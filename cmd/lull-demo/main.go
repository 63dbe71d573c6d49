// Command lull-demo shows lull's main job on a real virtual machine: it boots
// one that writes all the time, lets `lull agent` back it up by its schedule,
// destroys it, restores it into another folder and proves from inside the
// restored guest that nothing is missing. It drives the lull binary as a user
// would; only the virtual machine comes from lull's own test kit.
//
//	lull-demo [-lull bin/lull] [-keep]
//
// Everything happens in one temporary folder, which is removed at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// demoLimit ends a demo that hangs.
const demoLimit = 10 * time.Minute

func main() {
	lull := flag.String("lull", "bin/lull", "the lull `BINARY` to show")
	keep := flag.Bool("keep", false, "keep the temporary folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, demoLimit)
	defer cancel()
	if err := run(ctx, *lull, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "\nlull-demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, lull string, keep bool) (err error) {
	binary, err := filepath.Abs(lull)
	if err != nil {
		return fmt.Errorf("find lull: %w", err)
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("find lull: %w: run make build", err)
	}
	dir, err := os.MkdirTemp("", "lull-demo-")
	if err != nil {
		return fmt.Errorf("make demo folder: %w", err)
	}
	d := newDemo(binary, dir)
	defer func() {
		d.end()
		if err != nil {
			d.showLogs(os.Stderr)
		}
		if keep {
			fmt.Println("kept:", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	return d.play(ctx)
}

// showLogs prints what the programs of the demo had to say.
func (d *demo) showLogs(w io.Writer) {
	if d.guest != nil {
		fmt.Fprintf(w, "\n=== the first VM\n%s", d.guest.Logs())
	}
	for _, name := range []string{agentLog, bootLog, filepath.Join(restoredDir, "serial0.file")} {
		log, err := os.ReadFile(d.in(name))
		if err != nil {
			continue // that program was not reached
		}
		fmt.Fprintf(w, "\n=== %s\n%s\n", name, log[max(0, len(log)-maxShown):])
	}
}

// maxShown is how much of a log a failed demo shows, in bytes.
const maxShown = 8 << 10
