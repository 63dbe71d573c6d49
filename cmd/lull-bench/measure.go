package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// step is one command to run.
type step struct {
	args []string
	env  []string // beside PATH and HOME
	dir  string
	out  string // file for standard output; "": nowhere
	made string // folder of what it makes, which counts once it is on the disk; "": as the program leaves it
}

// usage is what a command took, with all processes that it started and waited for.
type usage struct {
	wall, cpu float64 // seconds
	peak      int64   // bytes; of the largest process
}

// measure runs a step to its end.
func measure(ctx context.Context, s step) (usage, error) {
	cmd := exec.CommandContext(ctx, s.args[0], s.args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}, s.env...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	said := &tail{}
	cmd.Stderr = said
	if s.out != "" {
		f, err := os.Create(s.out)
		if err != nil {
			return usage{}, fmt.Errorf("measure: %w", err)
		}
		defer f.Close()
		cmd.Stdout = f
	}
	start := time.Now()
	err := cmd.Run()
	if err != nil {
		return usage{}, fmt.Errorf("run %s: %w\n%s", strings.Join(s.args, " "), err, said)
	}
	if err := syncFiles(s.made); err != nil {
		return usage{}, fmt.Errorf("measure: %w", err)
	}
	wall := time.Since(start)
	u := usage{wall: wall.Seconds(), cpu: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.peak = r.Maxrss << 10
	}
	return u, nil
}

// syncFiles makes all files in a folder durable.
func syncFiles(dir string) error {
	if dir == "" {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// tail keeps the end of what a program says.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-4000):]
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }

// medians of each field by itself.
func medians(us []usage) usage {
	if len(us) == 0 {
		return usage{}
	}
	pick := func(field func(usage) float64) float64 {
		var vs []float64
		for _, u := range us {
			vs = append(vs, field(u))
		}
		slices.Sort(vs)
		return (vs[(len(vs)-1)/2] + vs[len(vs)/2]) / 2
	}
	return usage{
		wall: pick(func(u usage) float64 { return u.wall }),
		cpu:  pick(func(u usage) float64 { return u.cpu }),
		peak: int64(pick(func(u usage) float64 { return float64(u.peak) })),
	}
}

// bytesIn adds up the lengths of all files under a folder, without holes.
func bytesIn(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += inUse(info)
		}
		return err
	})
	return n, err
}

// inUse is a file's length, but for its holes.
func inUse(info fs.FileInfo) int64 {
	n := info.Size()
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		n = min(n, sys.Blocks*512)
	}
	return n
}

// warm reads what a file holds, so that every program finds it in memory.
func warm(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 4*mib)
	return eachData(ctx, f, len(buf), func(at int64) error {
		_, err := f.ReadAt(buf, at)
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
}

// eachData calls do for each window of a file that holds anything but a hole.
func eachData(ctx context.Context, f *os.File, window int, do func(at int64) error) error {
	for at := int64(0); ; at += int64(window) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // zeros up to the end
		}
		if err != nil {
			return fmt.Errorf("seek data: %w", err)
		}
		at = data / int64(window) * int64(window)
		if err := do(at); err != nil {
			return err
		}
	}
}
