package vmstate

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkPack lays out 64 MiB of pages into a file, which a guest waits for.
func BenchmarkPack(b *testing.B) {
	g := guest{names: []string{"pc.ram"}, blocks: [][]byte{make([]byte, 64<<20)}}
	if _, err := io.ReadFull(rand.NewChaCha8([32]byte{1}), g.blocks[0]); err != nil {
		b.Fatal(err)
	}
	stream := g.stream(g.inOrder())
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		f, err := os.Create(filepath.Join(b.TempDir(), "state"))
		if err != nil {
			b.Fatal(err)
		}
		if err := Pack(f, bytes.NewReader(stream), 1<<30); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
