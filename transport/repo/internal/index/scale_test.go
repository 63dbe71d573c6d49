package index

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/transport/block"
)

// The measurement of a large index, `make bench-scale`:
//
//	LULL_SCALE      entries, 1,000,000 unless said otherwise
//	LULL_SCALE_DIR  folder for the index, a temporary one unless said otherwise
//
// The index objects are those of hosts that stored segments of 64 blocks in packs
// of 24 segments, 43 packs an object, as a full backup makes them.
const (
	scaleSegment = 64
	scalePack    = 24 * scaleSegment
	scaleObject  = 43 * scalePack
	scaleWindow  = 300 // blocks that are asked for together: a window of 4 MiB
)

// scaleName is as uniform as a keyed hash and cheap to make again.
func scaleName(i uint64) (n block.Name) {
	for k := range 4 {
		x := (i*4 + uint64(k)) * 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		binary.BigEndian.PutUint64(n[8*k:], x^x>>31)
	}
	return n
}

func scaleEntry(i uint64) Entry {
	return Entry{scaleName(i), Location{
		Pack: scaleName(1<<40 + i/scalePack), Signer: [32]byte{byte(i >> 32)},
		SegmentOffset: uint32(i%scalePack) / scaleSegment * 700_000, SegmentLength: 700_000,
		BlockOffset: uint32(i%scaleSegment) * 14_000, BlockLength: 14_000,
	}}
}

// BenchmarkScale builds an index from its index objects, as after the loss of the
// cache, and prints what it costs to have and to ask. It asks twice: here, and in a
// process of its own in a cgroup of 512 MiB, page cache included.
func BenchmarkScale(b *testing.B) {
	count := uint64(1_000_000)
	if s := os.Getenv("LULL_SCALE"); s != "" {
		var err error
		if count, err = strconv.ParseUint(s, 10, 40); err != nil {
			b.Fatal(err)
		}
	}
	dir := os.Getenv("LULL_SCALE_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	for b.Loop() {
		scaleBuild(b, dir, count)
		scaleAsk(b, dir, count)
		scaleChild(b, dir, count)
	}
}

func say(b *testing.B, what, format string, args ...any) {
	b.Helper()
	fmt.Printf("| %s | %s |\n", what, fmt.Sprintf(format, args...))
}

// scaleBuild fills the folder, unless an earlier call did.
func scaleBuild(b *testing.B, dir string, count uint64) {
	x, err := Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	fmt.Printf("\n| %d entries | |\n|---|---:|\n", count)
	if x.Len() == int(count) {
		return
	}
	before, start := procIO(b), time.Now()
	l := x.Loader()
	for from := uint64(0); from < count; from += scaleObject {
		err := l.Add(context.Background(), Source(scaleName(from)), func(yield func(Entry, error) bool) {
			for i := from; i < min(from+scaleObject, count) && yield(scaleEntry(i), nil); i++ {
			}
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	took, size := time.Since(start), folderSize(b, dir)
	say(b, "rebuild from index objects, s", "%.0f", took.Seconds())
	say(b, "entries a second, decoding of objects not counted", "%.0f", float64(count)/took.Seconds())
	say(b, "file, bytes an entry", "%.1f", float64(size)/float64(count))
	say(b, "written / size of the files", "%.1f", float64(procIO(b)-before)/float64(size))
	say(b, "runs", "%d", len(x.runs))
	say(b, "peak memory while rebuilding, anonymous, MiB", "%d", status(b, "VmHWM")-status(b, "RssFile"))
}

// scaleAsk opens the index and asks.
func scaleAsk(b *testing.B, dir string, count uint64) {
	dropCaches(b, dir)
	runtime.GC()
	debug.FreeOSMemory()
	anon := status(b, "RssAnon")
	start := time.Now()
	x, err := Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close() // before a process in a cgroup asks: what is mapped here would not count there
	say(b, "open, nothing in the page cache, ms", "%d", time.Since(start).Milliseconds())
	start = time.Now()
	s := x.Session()
	say(b, "begin a session, ms", "%d", time.Since(start).Milliseconds())
	defer s.Close()
	scaleRounds(b, "cold, ", s, count, 20)
	scaleRounds(b, "warm, ", s, count, 400)
	runtime.GC()
	debug.FreeOSMemory()
	say(b, "memory of the process, anonymous, MiB", "%d", status(b, "RssAnon")-anon)
	say(b, "memory of the process, mapped files, MiB", "%d", status(b, "RssFile"))
}

// scaleRounds asks for windows of blocks that are not there, and that are.
func scaleRounds(b *testing.B, how string, s *Session, count uint64, windows int) {
	names, known := make([]block.Name, scaleWindow), make([]bool, scaleWindow)
	for _, c := range []struct {
		what string
		from uint64
		hits bool
	}{{"unknown blocks", 1 << 39, false}, {"known blocks, scattered", 0, true}} {
		start, before := time.Now(), usage(b)
		for w := range windows {
			for i := range names {
				names[i] = scaleName(c.from + (uint64(w*scaleWindow+i)*2654435761+uint64(windows))%count)
			}
			if err := s.Known(names, known); err != nil {
				b.Fatal(err)
			}
			for i := range known {
				if known[i] != c.hits {
					b.Fatalf("block %d of window %d: known %v", i, w, known[i])
				}
			}
		}
		took, after, n := time.Since(start), usage(b), float64(windows*scaleWindow)
		say(b, how+c.what+", look-ups a second", "%.0f", n/took.Seconds())
		if how == "warm, " { // what others do on the machine does not count
			say(b, how+c.what+", processor time a look-up, ns", "%.0f", float64(processor(after)-processor(before))/n)
		} else {
			say(b, how+c.what+", pages waited for, a look-up", "%.3f", float64(after.Majflt-before.Majflt)/n)
		}
	}
}

func processor(r unix.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }

const scaleLimit = 512 << 20

// scaleChild asks in a cgroup of 512 MiB.
func scaleChild(b *testing.B, dir string, count uint64) {
	if os.Getenv("LULL_SCALE_CHILD") != "" {
		return
	}
	group, err := memoryGroup(scaleLimit)
	if err != nil {
		say(b, "in a cgroup of 512 MiB", "not measured: %v", err)
		return
	}
	defer os.Remove(group)
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	c := exec.Command("sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, group,
		exe, "-test.run=^$", "-test.bench=^BenchmarkScale$", "-test.benchtime=1x")
	c.Env = append(os.Environ(), "LULL_SCALE_CHILD=1", "LULL_SCALE_DIR="+dir, fmt.Sprint("LULL_SCALE=", count), "GOMEMLIMIT=300MiB")
	out, err := c.CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	fmt.Printf("\nThe same in a cgroup of 512 MiB, page cache included:\n%s\n", out)
}

// memoryGroup makes a cgroup of version 2 or 1.
func memoryGroup(limit int) (string, error) {
	for _, g := range [][2]string{
		{"/sys/fs/cgroup", "memory.max"}, {"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	} {
		dir := filepath.Join(g[0], "lull-scale-"+strconv.Itoa(os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, g[1]), []byte(strconv.Itoa(limit)), 0); err == nil {
			return dir, nil
		}
		_ = os.Remove(dir)
	}
	return "", fmt.Errorf("no cgroup with a limit of memory can be made here (needs root)")
}

// status is a number of /proc/self/status, in MiB.
func status(b *testing.B, field string) int { return procNumber(b, "/proc/self/status", field) >> 10 }

// procIO is how many bytes this process has written.
func procIO(b *testing.B) int { return procNumber(b, "/proc/self/io", "wchar") }

func procNumber(b *testing.B, file, field string) int {
	b.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("%s has no %s", file, field)
	return 0
}

func usage(b *testing.B) (r unix.Rusage) {
	b.Helper()
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return r
}

func folderSize(b *testing.B, dir string) (size int64) {
	b.Helper()
	for _, path := range runFiles(b, dir) {
		info, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		size += info.Size()
	}
	return size
}

// dropCaches lets the kernel forget the files of the folder.
func dropCaches(b *testing.B, dir string) {
	b.Helper()
	for _, path := range runFiles(b, dir) {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
