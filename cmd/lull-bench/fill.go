package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The database of a benchmark image. A day rewrites rewrittenPages of it in place,
// anywhere: what a table with random updates does, and worse for deduplication
// than one whose updates cluster.
const (
	databaseSize   = 1 << 30
	rewrittenPages = 0.035
	walShare       = 3.0 / 64                 // of the database's size: three segments of PostgreSQL, used over and over
	logShare       = 400_000.0 / databaseSize // lines of log for a byte of the database
)

// fillCommand writes day 0 of the data into a folder of a mounted image, or
// changes it to day 1. The same day always writes the same bytes.
func fillCommand(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("fill", flag.ContinueOnError)
	root := flags.String("root", "", "`DIR` where the image is mounted")
	day := flags.Int("day", 0, "0 makes the data, 1 lives through a day")
	seed := flags.Uint64("seed", 1, "other data for another `NUMBER`")
	size := flags.Int64("database", databaseSize, "size of the database in `BYTES`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *root == "" {
		return fmt.Errorf("fill: -root is missing")
	}
	data := filepath.Join(*root, "srv/db")
	logs := filepath.Join(*root, "var/log/web")
	for _, dir := range []string{data, logs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	db := database{seed: *seed, pages: *size / dbPage}
	lines := int(float64(*size) * logShare)
	steps := []func() error{
		func() error { return db.create(ctx, filepath.Join(data, "table")) },
		func() error { return db.writeWAL(ctx, filepath.Join(data, "wal"), 0) },
		func() error { return writeLog(filepath.Join(logs, "access.log"), *seed, 0, lines) },
	}
	if *day == 1 {
		steps = []func() error{
			func() error { return db.update(ctx, filepath.Join(data, "table")) },
			func() error { return db.writeWAL(ctx, filepath.Join(data, "wal"), 1) },
			func() error { return writeLog(filepath.Join(logs, "access.log"), *seed, 1, lines) },
		}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	fmt.Fprintf(out, "filled day %d: database of %d pages\n", *day, db.pages)
	return nil
}

// writeLog appends a day of a web server's log.
func writeLog(path string, seed, day uint64, lines int) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = closing(f, err) }()
	w := bufio.NewWriterSize(f, 1<<20)
	r := rand.New(rand.NewPCG(seed, 0x106+day))
	words := newVocabulary(r)
	for i := range lines {
		second := i * 86_400 / lines
		fmt.Fprintf(w, "10.%d.%d.%d - - [%02d/Nov/2026:%02d:%02d:%02d +0000] \"GET /%s/%s?id=%d HTTP/1.1\" %d %d \"-\" \"Mozilla/5.0 (%s)\" %d\n",
			r.IntN(4), r.IntN(32), r.IntN(256), 20+day, second/3600, second/60%60, second%60,
			words.pick(), words.pick(), r.IntN(1_000_000), []int{200, 200, 200, 304, 404}[r.IntN(5)], r.IntN(60_000), words.pick(), r.IntN(900_000))
	}
	return w.Flush()
}

// closing is what a write ends with: whatever failed first counts, and what was
// written is on the disk.
func closing(f *os.File, err error) error {
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
