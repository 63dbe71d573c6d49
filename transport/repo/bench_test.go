package repo_test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// discard is a store that forgets packs, so that a benchmark measures the
// repository and not the memory under it.
type discard struct{ blob.Store }

func (d discard) Create(ctx context.Context, name string, data []byte) error {
	if strings.HasPrefix(name, "packs/") {
		return nil
	}
	return d.Store.Create(ctx, name, data)
}

const benchSize = 256 << 20

// content is real file content: the Go distribution's own files, laid out like
// files of a disk, each from a page on.
func content(b *testing.B) []byte {
	b.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	disk := make([]byte, 0, benchSize)
	err = filepath.WalkDir(strings.TrimSpace(string(out)), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		disk = append(disk, data[:min(len(data), benchSize-len(disk))]...)
		disk = append(disk, make([]byte, min(-len(disk)&(block.PageSize-1), benchSize-len(disk)))...)
		if len(disk) >= benchSize {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return disk
}

// putAll puts a disk through a session with a worker for each processor.
func putAll(b *testing.B, s *repo.Session, disk []byte, parent *repo.Root) repo.Root {
	b.Helper()
	st, err := s.Stream(b.Context(), int64(len(disk)), parent)
	if err != nil {
		b.Fatal(err)
	}
	windows := int64(len(disk)+block.WindowSize-1) / block.WindowSize
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for w := next.Add(1) - 1; w < windows; w = next.Add(1) - 1 {
				at := w * block.WindowSize
				if err := st.Put(b.Context(), w, disk[at:min(at+block.WindowSize, int64(len(disk)))]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	root, err := st.Finish(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return root
}

func benchCommit(b *testing.B, r *repo.Repository, disk []byte, parent *repo.Root) repo.Point {
	b.Helper()
	s, err := r.Begin(b.Context(), "bench", time.Now())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	root := putAll(b, s, disk, parent)
	p, err := s.Commit(b.Context(), repo.Point{VM: "bench", Disks: []repo.Disk{{Root: root}}})
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// A full backup into a new repository, as bytes of the disk a second.
func BenchmarkFullBackup(b *testing.B) {
	for _, c := range repo.Compressions() {
		b.Run(string(c), func(b *testing.B) { benchFullBackup(b, c) })
	}
}

func benchFullBackup(b *testing.B, c repo.Compression) {
	disk := content(b)
	b.SetBytes(int64(len(disk)))
	b.ReportAllocs()
	var p repo.Point
	for b.Loop() {
		b.StopTimer()
		store := discard{mem.New()}
		initRepo(b, store)
		r, err := repo.Open(b.Context(), store, repo.OpenOptions{Passphrase: passphrase, Compression: c})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		p = benchCommit(b, r, disk, nil)
		b.StopTimer()
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(p.Stats.New)/float64(p.Stats.Stored), "new/stored")
	b.ReportMetric(float64(p.Stats.New)/float64(len(disk)), "new/read")
}

// A second backup of the unchanged disk, every window read.
func BenchmarkUnchangedBackup(b *testing.B) {
	disk := content(b)
	store := mem.New()
	initRepo(b, store)
	r := openRepo(b, store)
	p := benchCommit(b, r, disk, nil)
	b.SetBytes(int64(len(disk)))
	b.ReportAllocs()
	for b.Loop() {
		benchCommit(b, r, disk, &p.Disks[0].Root)
	}
}

// The same without a parent: every block is looked up.
func BenchmarkKnownBackup(b *testing.B) {
	disk := content(b)
	store := mem.New()
	initRepo(b, store)
	r := openRepo(b, store)
	benchCommit(b, r, disk, nil)
	b.SetBytes(int64(len(disk)))
	b.ReportAllocs()
	for b.Loop() {
		benchCommit(b, r, disk, nil)
	}
}

func BenchmarkReadStream(b *testing.B) {
	disk := content(b)
	store := mem.New()
	initRepo(b, store)
	r := openRepo(b, store)
	p := benchCommit(b, r, disk, nil)
	b.SetBytes(int64(len(disk)))
	b.ReportAllocs()
	for b.Loop() {
		err := r.ReadStream(b.Context(), p.Disks[0].Root, runtime.GOMAXPROCS(0), func(context.Context, int64, []byte) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
}

// Compressing anew what a backup has stored, as bytes of the disk a second, and the share of
// the store that it saves.
func BenchmarkRecompress(b *testing.B) {
	disk := content(b)
	for _, c := range []repo.Compression{repo.CompressFast, repo.Auto} {
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(int64(len(disk)))
			var report repo.PruneReport
			for b.Loop() {
				b.StopTimer()
				store := mem.New()
				initRepo(b, store)
				r, err := repo.Open(b.Context(), store, repo.OpenOptions{Passphrase: passphrase, Compression: c})
				if err != nil {
					b.Fatal(err)
				}
				benchCommit(b, r, disk, nil)
				b.StartTimer()
				report = prune(b, r, repo.PruneOptions{Recompress: 1 << 40})
				b.StopTimer()
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(100*float64(report.Saved)/float64(report.Stored), "%saved")
		})
	}
}
