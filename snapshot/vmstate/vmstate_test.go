package vmstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/lull-backup/lull/snapshot"
)

// memory is a sparse file.
type memory struct {
	pages   map[int64][]byte
	size    int64
	written int64
}

// each calls fn with the part of every page that [off, off+len(p)) has.
func (m *memory) each(p []byte, off int64, fn func(number int64, from int, part []byte)) int {
	n := len(p)
	for len(p) > 0 {
		from := int(off % pageSize)
		part := p[:min(len(p), pageSize-from)]
		fn(off/pageSize, from, part)
		p, off = p[len(part):], off+int64(len(part))
	}
	return n
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if m.pages == nil {
		m.pages = map[int64][]byte{}
	}
	m.size = max(m.size, off+int64(len(p)))
	m.written += int64(len(p))
	return m.each(p, off, func(number int64, from int, part []byte) {
		if m.pages[number] == nil {
			m.pages[number] = make([]byte, pageSize)
		}
		copy(m.pages[number][from:], part)
	}), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	n := max(0, min(m.size-off, int64(len(p))))
	m.each(p[:n], off, func(number int64, from int, part []byte) {
		clear(part)
		copy(part, m.pages[number][min(from, len(m.pages[number])):])
	})
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// bytes are those of [off, off+n).
func (m *memory) bytes(t testing.TB, off, n int64) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := m.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

// guest is a VM whose stream is written as QEMU does.
type guest struct {
	names   []string
	blocks  [][]byte
	devices string
	between string // of the parts of its RAM
}

func newGuest(seed uint64) guest {
	r := rand.New(rand.NewPCG(seed, 1))
	g := guest{names: []string{"pc.ram", "vga", "rom"}, devices: "the devices"}
	for i, pages := range []int{1500, 16, 1} {
		b := make([]byte, pages*pageSize)
		for at := 0; at < len(b); at += pageSize {
			if i > 0 || r.IntN(3) > 0 {
				for j := range 16 {
					binary.LittleEndian.PutUint64(b[at+8*j:], r.Uint64())
				}
			}
		}
		g.blocks = append(g.blocks, b)
	}
	return g
}

func name(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

func (g guest) prelude() []byte {
	be := binary.BigEndian
	b := []byte(streamMagic + "\x07\x00\x00\x00\x06pc-q35\x01\x00\x00\x00\x02\x03ram\x00\x00\x00\x00\x00\x00\x00\x04")
	total := uint64(0)
	for _, x := range g.blocks {
		total += uint64(len(x))
	}
	b = be.AppendUint64(b, total|flagSizes)
	for i, x := range g.blocks {
		b = be.AppendUint64(name(b, g.names[i]), uint64(len(x)))
	}
	return be.AppendUint64(b, flagEnd)
}

// place is a page of a block.
type place struct{ block, page int }

func (g guest) inOrder() (list []place) {
	for i, b := range g.blocks {
		for p := range len(b) / pageSize {
			list = append(list, place{i, p})
		}
	}
	return list
}

// stream sends the pages in this order, in two parts.
func (g guest) stream(order []place) []byte {
	be := binary.BigEndian
	b := append(g.prelude(), sectionFooter, 0, 0, 0, 2)
	last := -1
	for i, o := range order {
		if i == 0 || i == len(order)/2 {
			if i > 0 {
				b = append(be.AppendUint64(b, flagEnd), sectionFooter, 0, 0, 0, 2)
				b = append(b, g.between...)
			}
			b = append(b, sectionPart, 0, 0, 0, 2)
		}
		data := g.blocks[o.block][o.page*pageSize:][:pageSize]
		word := uint64(o.page*pageSize) | flagPage
		if bytes.Equal(data, make([]byte, pageSize)) {
			word, data = uint64(o.page*pageSize)|flagZero, []byte{0}
		}
		if o.block == last {
			b = be.AppendUint64(b, word|flagSame)
		} else {
			b = name(be.AppendUint64(b, word), g.names[o.block])
		}
		b, last = append(b, data...), o.block
	}
	b = append(be.AppendUint64(b, flagEnd), sectionFooter, 0, 0, 0, 2)
	return append(b, "\x04"+g.devices...)
}

func pack(t testing.TB, stream []byte) *memory {
	t.Helper()
	m := &memory{}
	if err := Pack(m, iotest.HalfReader(bytes.NewReader(stream)), 1<<30); err != nil {
		t.Fatal(err)
	}
	return m
}

func unpack(t testing.TB, m *memory) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Unpack(t.Context(), &out, m, m.size); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// The stream comes back byte for byte, whatever it is; and where it is QEMU's, the
// guest's pages are where the guest has them.
func TestRoundTrip(t *testing.T) {
	g := newGuest(1)
	order := g.inOrder()
	shuffled := slices.Clone(order)
	rand.New(rand.NewPCG(2, 2)).Shuffle(len(order), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	whole := g.stream(order)
	between := func(s string) []byte {
		g := g
		g.between = s
		return g.stream(order)
	}
	head := append(g.prelude(), sectionFooter, 0, 0, 0, 2, sectionPart, 0, 0, 0, 2)
	empty := []byte{7: flagEnd, 8: sectionFooter, 12: 2, 13: sectionPart, 17: 2}
	zero := append(name([]byte{7: flagZero}, "rom"), 0)
	for what, c := range map[string]struct {
		stream []byte
		laid   bool
	}{
		"a guest that stands still": {whole, true},
		"one that runs":             {g.stream(shuffled), true},
		"pages that come again":     {g.stream(append(slices.Clone(order), order...)), true},
		"a command in between":      {between("\x08\x00\x0b\x00\x00"), true},
		"one with data":             {between("\x08\x12\x34\xff\xff" + strings.Repeat("data ", 0xffff/5)), true},
		"one that is cut off":       {between("\x08\x00\x0b\xff\xff"), false},
		"a part of something else":  {between("\x02\x00\x00\x00\x03"), false},
		"many parts":                {append(slices.Clone(head), bytes.Repeat(empty, 1<<16)...), false},
		"many names":                {append(slices.Clone(head), bytes.Repeat(zero, 1<<16)...), false},
		"cut off":                   {whole[:len(whole)/2], false},
		"a page of another kind":    {bytes.Replace(whole, []byte{0x10, 0, flagPage | flagSame}, []byte{0x10, 1, flagPage | flagSame}, 1), false},
		"not QEMU's":                {[]byte("hello, world"), false},
		"longer, not QEMU's":        {bytes.Repeat([]byte("hello, world"), 1<<18), false},
		"nothing":                   {nil, false},
	} {
		t.Run(what, func(t *testing.T) {
			m := pack(t, c.stream)
			if !bytes.Equal(unpack(t, m), c.stream) {
				t.Error("another stream comes back")
			}
			if most := len64(c.stream) + len64(c.stream)/512 + maxGrown + 2*headerSize; m.written > most {
				t.Errorf("%d bytes written of %d", m.written, len(c.stream))
			}
			if !c.laid {
				return
			}
			p, ok := parsePrelude(c.stream[:maxPrelude], 1<<30)
			if !ok {
				t.Fatal("the stream is not understood")
			}
			for i, b := range p.blocks {
				if b.at%align != 0 || !bytes.Equal(m.bytes(t, b.at, b.length), g.blocks[i]) {
					t.Errorf("block %s is not at %d", b.name, b.at)
				}
			}
		})
	}
}

func len64(b []byte) int64 { return int64(len(b)) }

// What a guest has not touched between two nights is the same bytes at the same places,
// whatever order its pages came in.
func TestNightsShare(t *testing.T) {
	g := newGuest(1)
	first := pack(t, g.stream(g.inOrder()))
	order := g.inOrder()
	slices.Reverse(order)
	for i := range 30 {
		copy(g.blocks[0][i*50*pageSize:], "another night")
	}
	g.devices = "other devices"
	second := pack(t, g.stream(order))
	changed := 0
	for number, page := range second.pages {
		if !bytes.Equal(page, first.pages[number]) {
			changed++
		}
	}
	if changed > 30+10 { // header and records
		t.Errorf("%d pages differ, the guest wrote to 30", changed)
	}
}

func TestLimit(t *testing.T) {
	g := newGuest(1)
	stream := g.stream(g.inOrder())
	err := Pack(&memory{}, bytes.NewReader(stream), int64(len(stream)-1))
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if err := Pack(&memory{}, bytes.NewReader(stream), int64(len(stream))); err != nil {
		t.Error(err)
	}
}

// An error of the stream, of the file, or of where the stream goes is the caller's.
func TestErrorsPass(t *testing.T) {
	g := newGuest(1)
	stream := g.stream(g.inOrder())
	broken := errors.New("broken")
	for n := 0; n < len(stream); n += len(stream)/50 + 1 {
		r := io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken))
		if err := Pack(&memory{}, r, 1<<30); !errors.Is(err, broken) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
	if err := Pack(brokenFile{broken}, bytes.NewReader(stream), 1<<30); !errors.Is(err, broken) {
		t.Error(err)
	}
	m := pack(t, stream)
	if err := Unpack(t.Context(), brokenFile{broken}, m, m.size); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type brokenFile struct{ err error }

func (f brokenFile) WriteAt([]byte, int64) (int, error) { return 0, f.err }
func (f brokenFile) Write([]byte) (int, error)          { return 0, f.err }

// Whatever bit of a layout flips, the stream that was is not another one.
func TestCorruptLayout(t *testing.T) {
	g := newGuest(1)
	stream := g.stream(g.inOrder())
	m := pack(t, stream)
	r := rand.New(rand.NewPCG(3, 3))
	h, err := decodeHeader(m.bytes(t, 0, headerSize), m.size)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		from, to := int64(0), int64(len(magic)+24+32)
		if r.IntN(2) > 0 {
			from, to = h.rest, h.rest+h.restLength
		}
		at, bit := from+r.Int64N(to-from), byte(1)<<r.IntN(8)
		flip := func() { m.pages[at/pageSize][at%pageSize] ^= bit }
		flip()
		var out bytes.Buffer
		err := Unpack(t.Context(), &out, m, m.size)
		if err == nil && !bytes.Equal(out.Bytes(), stream) || err != nil && !errors.Is(err, snapshot.ErrCorrupt) {
			t.Fatalf("got %v", err)
		}
		flip()
	}
	for _, n := range []int64{0, 10, headerSize, h.rest, h.rest + h.restLength - 1} {
		if err := Unpack(t.Context(), io.Discard, io.NewSectionReader(m, 0, n), n); !errors.Is(err, snapshot.ErrCorrupt) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

func FuzzPack(f *testing.F) {
	g := guest{names: []string{"pc.ram", "x"}, blocks: [][]byte{make([]byte, 3*pageSize), bytes.Repeat([]byte("ab"), pageSize/2)}}
	copy(g.blocks[0][pageSize:], "data")
	f.Add(g.stream(g.inOrder()))
	f.Add(g.stream([]place{{0, 2}, {1, 0}, {0, 1}, {0, 1}, {1, 0}}))
	f.Add([]byte("QEVM"))
	g.between = "\x08\x00\x0b\x00\x02xy"
	f.Add(g.stream(g.inOrder()))
	f.Fuzz(func(t *testing.T, stream []byte) {
		m := &memory{}
		if err := Pack(m, bytes.NewReader(stream), 8<<20); err != nil {
			if len(stream) <= 8<<20 {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(unpack(t, m), stream) {
			t.Fatal("another stream comes back")
		}
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add(int64(100), []byte{recordBytes, 3, 'a', 'b', 'c'})
	f.Add(int64(5000), []byte{recordPage, 1, recordPages, 1, 1, 1, recordZeros, 1, 1})
	f.Fuzz(func(t *testing.T, length int64, records []byte) {
		h := header{rest: 4 * pageSize, restLength: int64(len(records)), length: min(length, 1<<24)}
		b := append(make([]byte, h.rest), records...)
		copy(b, h.encode())
		var out bytes.Buffer
		if err := Unpack(t.Context(), &out, bytes.NewReader(b), int64(len(b))); err == nil {
			t.Fatal("the sum matches by chance")
		} else if !errors.Is(err, snapshot.ErrCorrupt) {
			t.Fatal(err)
		}
		if len64(out.Bytes()) > max(h.length, 0) {
			t.Fatalf("%d bytes written of %d", out.Len(), h.length)
		}
	})
}
