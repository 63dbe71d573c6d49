package pack

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/s2"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// text shrinks, and the more the harder it is compressed.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, 1))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "%d: an unremarkable line of %x and %x\n", b.Len(), r.IntN(1<<(1+b.Len()%16)), r.IntN(900))
	}
	return b.Bytes()[:n]
}

func TestLevels(t *testing.T) {
	c := codec(t)
	random := make([]byte, MaxSegment)
	rand.NewChaCha8([32]byte{1}).Read(random)
	for level, method := range map[Level]byte{Fast: methodS2, Normal: methodZstd, High: methodZstd, Highest: methodZstd} {
		for name, plain := range map[string][]byte{"text": text(MaxSegment), "zeros": make([]byte, MaxSegment), "short": text(300)} {
			packed := c.PackAt([]byte("x"), plain, level)
			if packed[0] != 'x' || packed[1] != method {
				t.Errorf("level %d, %s: starts with %x", level, name, packed[:2])
			}
			if back, err := c.Unpack(make([]byte, 0, MaxSegment), packed[1:]); err != nil || !bytes.Equal(back, plain) {
				t.Errorf("level %d, %s: %v", level, name, err)
			}
		}
		if packed := c.PackAt(nil, random, level); packed[0] != methodStored || len(packed) != len(random)+1 {
			t.Errorf("level %d: random data has method %d, %d bytes", level, packed[0], len(packed))
		}
	}
	fast := len(c.PackAt(nil, text(MaxSegment), Fast))
	for level := Normal; level < levels; level++ {
		if n := len(c.PackAt(nil, text(MaxSegment), level)); n >= fast {
			t.Errorf("level %d: %d bytes, %d when fast", level, n, fast)
		}
	}
}

// What never repeats shrinks as far as it uses few characters: mail, dumps in hex.
func TestFewCharacters(t *testing.T) {
	c := codec(t)
	random := make([]byte, MaxSegment)
	rand.NewChaCha8([32]byte{1}).Read(random)
	for name, test := range map[string]struct {
		plain string
		most  int // percent
	}{
		"base64": {base64.StdEncoding.EncodeToString(random)[:MaxSegment], 77},
		"hex":    {hex.EncodeToString(random)[:MaxSegment], 52},
	} {
		for level := Normal; level < levels; level++ {
			if n := len(c.PackAt(nil, []byte(test.plain), level)); n*100 > len(test.plain)*test.most {
				t.Errorf("%s, level %d: %d bytes of %d", name, level, n, len(test.plain))
			}
		}
	}
}

// The bytes of a block of S2, as docs/format.md tells them: length, literals, a match
// with its offset, the same offset again.
func TestS2IsAsWrittenDown(t *testing.T) {
	packed := []byte{
		methodS2, 24, // bytes
		3 << 2, 'l', 'u', 'l', 'l', // 4 literals
		1 | 0<<2, 4, // 4 from 4 back
		3 << 2, '!', '!', '!', '?',
		1 | 5<<2, 0, 4, // the last offset again, 4 and 8 bytes
	}
	got, err := codec(t).Unpack(nil, packed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("lulllull!!!?!!!?!!!?!!!?", string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestS2Bombs(t *testing.T) {
	c := codec(t)
	huge := binary.AppendUvarint([]byte{methodS2}, 1<<40)
	for name, packed := range map[string][]byte{
		"empty":         {methodS2},
		"length only":   {methodS2, 9},
		"too long":      append([]byte{methodS2}, s2.Encode(nil, make([]byte, MaxSegment+1))...),
		"lying":         append(huge, 1, 2, 3),
		"before begin":  {methodS2, 8, 0, 'a', 1, 9, 1, 9},
		"offset 0 only": {methodS2, 4, 1, 0},
	} {
		if plain, err := c.Unpack(nil, packed); !errors.Is(err, wire.ErrDamaged) {
			t.Errorf("%s: %d bytes, %v", name, len(plain), err)
		}
	}
}

// Sealing thousands of segments must not leave garbage behind.
func TestPackAllocations(t *testing.T) {
	c, plain := codec(t), text(MaxSegment)
	dst, back := make([]byte, 0, 2*MaxSegment), make([]byte, 0, MaxSegment)
	for level := Fast; level <= High; level++ {
		dst = c.PackAt(dst[:0], plain, level)
		n := testing.AllocsPerRun(10, func() {
			dst = c.PackAt(dst[:0], plain, level)
			if _, err := c.Unpack(back, dst); err != nil {
				t.Fatal(err)
			}
		})
		if n > 4+pooled {
			t.Errorf("level %d: %v allocations a segment", level, n)
		}
	}
}

func BenchmarkPackLevels(b *testing.B) {
	c, plain := codec(b), text(MaxSegment)
	var dst []byte
	for level := Fast; level < levels; level++ {
		b.Run(fmt.Sprint(level), func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				dst = c.PackAt(dst[:0], plain, level)
			}
			b.ReportMetric(float64(len(plain))/float64(len(dst)), "plain/packed")
		})
	}
}
