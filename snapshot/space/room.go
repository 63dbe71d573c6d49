package space

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// Room is a file system, looked at a moment ago.
type Room struct {
	Dir    string // a folder on it
	Device uint64
	Free   int64 // bytes, for users without special rights
	Soft   int64 // no run begins when less is free
	Hard   int64 // runs end when less is free
}

// At looks at the file system of a folder, which may be still to be made.
func (l Limits) At(dir string) (Room, error) {
	var file unix.Stat_t
	at := dir
	for {
		err := unix.Stat(at, &file)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return Room{}, &os.PathError{Op: "stat", Path: at, Err: err}
		}
		at = filepath.Dir(at)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil {
		return Room{}, &os.PathError{Op: "statfs", Path: at, Err: err}
	}
	if s.Blocks == 0 { // it keeps no such count, as ramfs
		return Room{Dir: dir, Device: file.Dev, Free: math.MaxInt64 / 2}, nil
	}
	r := Room{Dir: dir, Device: file.Dev, Free: int64(s.Bavail) * s.Bsize}
	r.Soft, r.Hard = l.lines(int64(s.Blocks) * s.Bsize)
	return r, nil
}

// FileGrows is how much a file may still grow by until it has all of size; 0 for what is
// no regular file.
func FileGrows(path string, size int64) int64 {
	var image unix.Stat_t
	if unix.Stat(path, &image) != nil || image.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0
	}
	return max(size-image.Blocks*blockSize, 0)
}

// FileTakes is how much a file takes of its file system; 0 where there is none.
func FileTakes(path string) int64 {
	var file unix.Stat_t
	if unix.Stat(path, &file) != nil {
		return 0
	}
	return file.Blocks * blockSize
}

const blockSize = 512 // of st_blocks, whatever the file system's are

// Bytes writes a number of bytes for people.
func Bytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// short is the error of a room in which there is too little.
func (r Room) short(free int64, rule string) error {
	return snapshot.WithHint(fmt.Errorf("%s are free for deltas in %s, %s: %w", Bytes(free), r.Dir, rule, snapshot.ErrNoSpace),
		"make room in "+r.Dir+", or have the deltas elsewhere (delta_dir): what the guest writes during a backup goes there")
}
