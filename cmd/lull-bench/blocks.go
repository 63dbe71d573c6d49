package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"

	"github.com/lull-backup/lull/transport/block"
)

// blocksCommand cuts, names, deduplicates and compresses the three images in
// every way that schemes lists, and prints what each way would store.
func blocksCommand(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("blocks", flag.ContinueOnError)
	dir := imagesFlag(flags)
	only := flags.String("only", "", "only schemes whose name matches the regular `EXPRESSION`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("read -only: %w", err)
	}
	images, err := findImages(*dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Images in use: A %d, B %d, A a day later %d MB. MB = 10^6 bytes.\n\n", images[0].used/1e6, images[1].used/1e6, images[2].used/1e6)
	fmt.Fprintln(out, "| scheme | A | +B | +A' | data | directories, index | maps | **all** | blocks | cut+name s | compress s |")
	fmt.Fprintln(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	var runs []*run
	for _, s := range schemes() {
		if !wanted.MatchString(s.name) {
			continue
		}
		r, err := newRun(s)
		if err != nil {
			return err
		}
		runs = append(runs, r)
	}
	if err := measureRuns(ctx, runs, images); err != nil {
		return err
	}
	for _, r := range runs {
		fmt.Fprintln(out, &r.result)
	}
	return nil
}

// result is what a scheme comes to; bytes unless it says otherwise.
type result struct {
	scheme   scheme
	after    []int64 // what each image added, metadata and all
	data     int64
	index    int64
	maps     int64
	blocks   int64   // distinct
	cutting  float64 // processor seconds, for A
	compress float64 // for all
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

// run is a scheme at work.
type run struct {
	scheme scheme
	press  *press
	ledger *ledger
	result result
}

func newRun(s scheme) (*run, error) {
	p, err := startPress(s)
	if err != nil {
		return nil, err
	}
	return &run{scheme: s, press: p, ledger: newLedger(p), result: result{scheme: s}}, nil
}

// measureRuns takes the images through every scheme at once, one image after the
// other: reading them is what takes longest where memory is short.
func measureRuns(ctx context.Context, runs []*run, images []image) (err error) {
	runtime.LockOSThread() // whose processor time is counted
	defer runtime.UnlockOSThread()
	defer func() {
		for _, r := range runs {
			err = errors.Join(err, r.press.stop())
		}
	}()
	for _, m := range images {
		if err := readImage(ctx, runs, m); err != nil {
			return fmt.Errorf("measure %s: %w", m.file, err)
		}
		for _, r := range runs {
			if err := r.imageDone(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// readImage feeds every window that is no hole to every scheme.
func readImage(ctx context.Context, runs []*run, m image) error {
	f, err := os.Open(m.path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, copied := make([]byte, block.WindowSize), make([]byte, block.WindowSize)
	return eachData(ctx, f, len(data), func(at int64) error {
		window := data[:min(int64(len(data)), m.size-at)]
		if _, err := f.ReadAt(window, at); err != nil {
			return fmt.Errorf("read image: %w", err)
		}
		for _, r := range runs {
			if err := r.take(ctx, where{m.vm, at}, copied[:copy(copied, window)]); err != nil {
				return err
			}
		}
		return nil
	})
}

// take cuts one window of lull's size, in windows of the scheme's.
func (r *run) take(ctx context.Context, at where, data []byte) error {
	for off := 0; off < len(data); off += r.scheme.window {
		part := where{at.vm, at.at + int64(off)}
		took, err := r.ledger.window(ctx, r.scheme, part, data[off:min(off+r.scheme.window, len(data))])
		if err != nil {
			return err
		}
		if len(r.result.after) == 0 {
			r.result.cutting += took
		}
	}
	return nil
}

// imageDone notes what the store holds by now.
func (r *run) imageDone(ctx context.Context) error {
	if err := r.ledger.flush(ctx); err != nil {
		return err
	}
	before := r.result.total()
	r.result.data, r.result.index, r.result.maps = r.press.drain(), r.ledger.index, r.ledger.maps
	r.result.blocks, r.result.compress = int64(len(r.ledger.known)), r.press.seconds()
	r.result.after = append(r.result.after, r.result.total()-before)
	return nil
}

// Bytes of metadata, as docs/format.md has them.
const (
	listed     = int64(2 * (len(block.Name{}) + 2)) // a block in its pack's directory and in the index
	mapped     = len(block.Name{}) + 2              // a block in a leaf
	leafHeader = 3
	upper      = (len(block.Name{}) + 8) + 1 // a leaf in the node above, and that node's share of those above it
	sealed     = 17                          // a segment's method and tag
)
