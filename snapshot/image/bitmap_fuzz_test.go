package image

import (
	"errors"
	"testing"
)

// bitmapped is a tiny image with a bitmap: header | L1 | L2 | data | directory |
// table | bitmap.
func bitmapped() []byte {
	const cluster = 512
	b := append(tiny(nil, nil, 0), make([]byte, 3*cluster)...)
	be.PutUint64(b[88:], autoclearBitmaps)
	be.PutUint32(b[112:], extensionBitmaps)
	be.PutUint32(b[116:], bitmapsExtensions)
	be.PutUint32(b[120:], 1)
	be.PutUint64(b[128:], 32)
	be.PutUint64(b[136:], 4*cluster)
	dir := b[4*cluster:]
	be.PutUint64(dir, 5*cluster)
	be.PutUint32(dir[8:], 1)
	be.PutUint32(dir[12:], 2) // enabled
	dir[16], dir[17] = bitmapTracking, minGranularity
	be.PutUint16(dir[18:], 4)
	copy(dir[bitmapEntry:], "mine")
	be.PutUint64(b[5*cluster:], 6*cluster)
	b[6*cluster], b[6*cluster+4] = 0b101, 0x80
	return b
}

// FuzzBitmap damages an image and reads its bitmap. An input is how many bytes are cut
// off its end, and patches as in FuzzQcow2.
func FuzzBitmap(f *testing.F) {
	const size = 40 * 512
	f.Add(uint16(0), []byte{})
	f.Add(uint16(0), []byte("\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x01")) // all ones
	f.Add(uint16(0), []byte("\x08\x08\x00\x00\x00\x01\x00\x00\x00\x03")) // in use
	f.Add(uint16(600), []byte{})
	f.Fuzz(func(t *testing.T, cut uint16, patches []byte) {
		b := bitmapped()
		b = b[:max(0, len(b)-int(cut))]
		for ; len(patches) >= 10; patches = patches[10:] {
			copy(b[min(int(be.Uint16(patches)), len(b)):], patches[2:10])
		}
		img := memory(t)
		if _, err := img.Write(b); err != nil {
			t.Fatal(err)
		}
		set, err := ReadBitmap(t.Context(), img.Name(), "mine", size)
		if err != nil {
			if !errors.Is(err, ErrNoBitmap) {
				known(t, err)
			}
			return
		}
		if n := set.Bytes(); set.Size() != size || n < 0 || n > size {
			t.Fatalf("%d bytes of a disk of %d", n, set.Size())
		}
	})
}

func TestBitmapSeed(t *testing.T) {
	img := memory(t)
	if _, err := img.Write(bitmapped()); err != nil {
		t.Fatal(err)
	}
	set, err := ReadBitmap(t.Context(), img.Name(), "mine", 40*512)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(40) {
		if got, want := set.Any(i*512, 512), i == 0 || i == 2 || i == 39; got != want {
			t.Errorf("part %d: %v", i, got)
		}
	}
}
