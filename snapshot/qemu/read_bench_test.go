package qemu

import (
	"fmt"
	"sync"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

const (
	benchSize   = 1 << 30
	benchWindow = 4 << 20
)

// BenchmarkReadFrozen reads a frozen disk from its file and from QEMU's NBD server.
func BenchmarkReadFrozen(b *testing.B) {
	for _, format := range []snapshot.Format{snapshot.FormatQcow2, snapshot.FormatRaw} {
		for _, served := range []bool{false, true} {
			s := shape{format: format, bus: "virtio", disks: 1, served: served}
			b.Run(fmt.Sprintf("%s/served=%v", format, served), func(b *testing.B) {
				src := frozenDisk(b, s)
				b.SetBytes(benchSize)
				for b.Loop() {
					readOnce(b, src)
				}
			})
		}
	}
}

// frozenDisk is a disk full of data.
func frozenDisk(b *testing.B, s shape) snapshot.Source {
	v := newVM(b, s)
	v.ask("block_resize", args{"node-name": "fmt0", "size": benchSize}, nil)
	for off := int64(0); off < benchSize; off += 16 << 20 {
		if err := v.write("disk0", off, 16<<20, byte(off>>24)); err != nil {
			b.Fatal(err)
		}
	}
	h := v.host()
	p, err := h.Plan(b.Context(), "web", "run")
	if err == nil {
		err = h.Prepare(b.Context(), p)
	}
	if err == nil {
		err = h.Take(b.Context(), p)
	}
	if err != nil {
		b.Fatal(err)
	}
	f, err := h.Open(b.Context(), p)
	if err != nil {
		b.Fatal(err)
	}
	src, err := f.Disk(b.Context(), "disk0")
	if err != nil {
		b.Fatal(err)
	}
	return src
}

func readOnce(b *testing.B, src snapshot.Source) {
	const workers = 3
	var all sync.WaitGroup
	for w := range int64(workers) {
		all.Go(func() {
			buf := make([]byte, benchWindow)
			for off := w * benchWindow; off < benchSize; off += workers * benchWindow {
				if err := src.ReadAt(b.Context(), buf, off); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
}
