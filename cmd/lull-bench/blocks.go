package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/lull-backup/lull/transport/block"
)

// blocksCommand cuts, names, deduplicates and compresses the three images in
// every way that schemes lists, and prints what each way would store.
func blocksCommand(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("blocks", flag.ContinueOnError)
	dir := imagesFlag(flags)
	only := flags.String("only", "", "only schemes whose name holds `TEXT`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	images, err := findImages(*dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Images in use: A %d, B %d, A a day later %d MB. MB = 10^6 bytes.\n\n", images[0].used/1e6, images[1].used/1e6, images[2].used/1e6)
	fmt.Fprintln(out, "| scheme | A | +B | +A' | data | directories, index | maps | **all** | blocks | cut+name s | compress s |")
	fmt.Fprintln(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	for _, s := range schemes() {
		if !strings.Contains(s.name, *only) {
			continue
		}
		r, err := s.measure(ctx, images)
		if err != nil {
			return fmt.Errorf("measure %s: %w", s.name, err)
		}
		fmt.Fprintln(out, r)
	}
	return nil
}

// result is what a scheme comes to; bytes unless it says otherwise.
type result struct {
	scheme    scheme
	after     []int64 // each image's data and metadata
	data      int64
	index     int64
	maps      int64
	blocks    int64 // distinct
	cutting   float64
	compress  float64
	lastTotal int64
}

func (r *result) total() int64 { return r.data + r.index + r.maps }

func (r *result) String() string {
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | **%s** | %d | %.1f | %.1f |", r.scheme.name,
		megabytes(r.after[0]), megabytes(r.after[1]), megabytes(r.after[2]), megabytes(r.data), megabytes(r.index), megabytes(r.maps),
		megabytes(r.total()), r.blocks, r.cutting, r.compress)
}

func megabytes(n int64) string {
	if n < 100e6 {
		return fmt.Sprintf("%.1f", float64(n)/1e6)
	}
	return fmt.Sprintf("%d", (n+5e5)/1e6)
}

// measure runs the images through a scheme, one after the other into one store.
func (s scheme) measure(ctx context.Context, images []image) (*result, error) {
	r := &result{scheme: s}
	runtime.LockOSThread() // whose processor time is counted
	defer runtime.UnlockOSThread()
	press, err := startPress(s)
	if err != nil {
		return nil, err
	}
	store := newLedger(press)
	for _, m := range images {
		cutting, err := store.take(ctx, s, m)
		if err != nil {
			return nil, errors.Join(err, press.stop())
		}
		if len(r.after) == 0 {
			r.cutting = cutting
		}
		r.data, r.index, r.maps, r.blocks = press.drain(), store.index, store.maps, int64(len(store.known))
		r.after = append(r.after, r.total()-r.lastTotal)
		r.lastTotal = r.total()
	}
	r.compress = press.seconds()
	return r, press.stop()
}

// take reads one image, window after window, without its holes. It returns the
// processor seconds that cutting and naming took.
func (l *ledger) take(ctx context.Context, s scheme, m image) (float64, error) {
	f, err := os.Open(m.path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, s.window)
	cutting := 0.0
	err = eachData(ctx, f, s.window, func(at int64) error {
		window := buf[:min(int64(s.window), m.size-at)]
		if _, err := f.ReadAt(window, at); err != nil {
			return fmt.Errorf("read image: %w", err)
		}
		took, err := l.window(ctx, s, where{m.vm, at}, window)
		cutting += took
		return err
	})
	if err != nil {
		return 0, err
	}
	return cutting, l.flush(ctx)
}

// Bytes of metadata, as docs/format.md has them.
const (
	listed     = int64(2 * (len(block.Name{}) + 2)) // a block in its pack's directory and in the index
	mapped     = len(block.Name{}) + 2              // a block in a leaf
	leafHeader = 3
	upper      = (len(block.Name{}) + 8) + 1 // a leaf in the node above, and that node's share of those above it
	sealed     = 17                          // a segment's method and tag
)
