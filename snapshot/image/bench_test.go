package image_test

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

const (
	benchSize = 256 << 20
	window    = 4 << 20
)

func BenchmarkRead(b *testing.B) {
	disk := mixed(benchSize)
	raw := write(b, filepath.Join(b.TempDir(), "disk.raw"), disk)
	for name, args := range map[string][]string{
		"qcow2": {}, "zlib": {"-c"}, "zstd": {"-c", "-o", "compression_type=zstd"},
	} {
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "disk.qcow2")
			qemuImg(b, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, path)...)
			benchRead(b, path, snapshot.FormatQcow2)
		})
	}
	b.Run("raw", func(b *testing.B) { benchRead(b, raw, snapshot.FormatRaw) })
}

func benchRead(b *testing.B, path string, format snapshot.Format) {
	src := openLoose(b, path, format)
	b.SetBytes(benchSize)
	for b.Loop() {
		var wg sync.WaitGroup
		for worker := range int64(4) {
			wg.Go(func() {
				buf := make([]byte, window)
				for off := worker * window; off < benchSize; off += 4 * window {
					if err := src.ReadAt(b.Context(), buf, off); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
}

func BenchmarkWrite(b *testing.B) {
	disk := mixed(benchSize)
	for _, format := range []snapshot.Format{snapshot.FormatRaw, snapshot.FormatQcow2} {
		b.Run(string(format), func(b *testing.B) {
			dir := b.TempDir()
			b.SetBytes(benchSize)
			for b.Loop() {
				target := create(b, filepath.Join(dir, "disk"), format, benchSize, true)
				var wg sync.WaitGroup
				for worker := range int64(4) {
					wg.Go(func() {
						for off := worker * window; off < benchSize; off += 4 * window {
							if err := target.WriteAt(b.Context(), disk[off:off+window], off); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				if err := target.Commit(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReadForeign reads the formats of other hypervisors.
func BenchmarkReadForeign(b *testing.B) {
	disk := mixed(benchSize)
	raw := write(b, filepath.Join(b.TempDir(), "disk.raw"), disk)
	for name, opts := range map[string]string{"vpc": "force_size=on", "vhdx": "subformat=dynamic", "vmdk": "subformat=streamOptimized"} {
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "disk")
			qemuImg(b, "convert", "-f", "raw", "-O", name, "-o", opts, raw, path)
			format := snapshot.Format(name)
			if name == "vpc" {
				format = snapshot.FormatVHD
			}
			benchRead(b, path, format)
		})
	}
}
