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
)

// command is one thing that lull-bench does.
type command struct {
	name, does string
	run        func(ctx context.Context, args []string, out io.Writer) error
}

func commands() []command {
	return []command{
		{"peers", "lull beside other programs", peersCommand},
		{"blocks", "ways to cut a disk into blocks", blocksCommand},
		{"fill", "make the database and the logs of a benchmark image", fillCommand},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "lull-bench:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		for _, c := range commands() {
			if c.name == args[0] {
				return c.run(ctx, args[1:], out)
			}
		}
	}
	fmt.Fprintln(os.Stderr, "usage: lull-bench COMMAND [FLAGS]")
	for _, c := range commands() {
		fmt.Fprintf(os.Stderr, "  %-8s %s\n", c.name, c.does)
	}
	return flag.ErrHelp
}

// imagesFlag adds the flag that says where the images are.
func imagesFlag(flags *flag.FlagSet) *string {
	return flags.String("images", filepath.Join(cacheDir(), "images"), "folder `DIR` of the images that packaging/bench-images.sh made")
}

// cacheDir is where benchmarks keep what is slow to make.
func cacheDir() string {
	if dir := os.Getenv("LULL_BENCH_DIR"); dir != "" {
		return dir
	}
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	return filepath.Join(base, "lull-bench")
}

// image is one of the three disks, in the order in which they are backed up.
type image struct {
	vm, file string // the VM's name, the file's
	path     string
	size     int64 // bytes, holes included
	used     int64 // bytes that take room
}

// findImages looks the three images up: A, B and A a day later.
func findImages(dir string) ([]image, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find images: %w", err)
	}
	images := []image{{vm: "a", file: "a.raw"}, {vm: "b", file: "b.raw"}, {vm: "a", file: "a2.raw"}}
	for i := range images {
		m := &images[i]
		m.path = filepath.Join(dir, m.file)
		st, err := os.Stat(m.path)
		if err != nil {
			return nil, fmt.Errorf("find image: %w; packaging/bench-images.sh makes it", err)
		}
		m.size, m.used = st.Size(), inUse(st)
	}
	return images, nil
}
