package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

func ring(t testing.TB) *keys.Ring {
	t.Helper()
	return ringOf(t, keys.Repository{2})
}

// ringOf holds the keys of the owner of a repository.
func ringOf(t testing.TB, id keys.Repository) *keys.Ring {
	t.Helper()
	master := keys.Master{1}
	public, err := master.Public(id)
	if err != nil {
		t.Fatal(err)
	}
	secrets, c, err := master.NewKey(id, keys.Certificate{Label: "test", Roles: keys.Owner, Epoch: 1})
	if err != nil {
		t.Fatal(err)
	}
	r, err := secrets.Ring(id, public, c.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func codec(t testing.TB) *Codec {
	t.Helper()
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// content makes a segment's blocks, of which every other is random.
func content(r *keys.Ring, seed uint64, blocks int) ([]byte, []Block) {
	rng := rand.New(rand.NewPCG(seed, 0))
	var plain []byte
	var list []Block
	for i := range blocks {
		b := make([]byte, 1+rng.IntN(block.MaxBlock))
		for j := range b {
			b[j] = byte(rng.Uint32()) & byte(-(i & 1))
		}
		plain = append(plain, b...)
		list = append(list, Block{Name: r.Data.Name(b), Length: uint32(len(b))})
	}
	return plain, list
}

// write fills a pack by several goroutines and returns it with its contents.
func write(t testing.TB, r *keys.Ring, c *Codec, segments int) (Pack, map[uint32][]byte) {
	t.Helper()
	w, err := NewWriter(r, c, wire.DataPack, make([]byte, 0, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	plains := map[uint32][]byte{}
	for i := range segments {
		wg.Go(func() {
			plain, blocks := content(r, uint64(i), 5)
			packed := c.Pack(nil, plain)
			place, ok := w.Reserve(len(packed), blocks)
			if !ok {
				t.Error("no room")
				return
			}
			if ready, err := w.Fill(place, packed, plain, new(Scratch)); ready || err != nil {
				t.Errorf("ready %v, %v", ready, err)
			}
			mu.Lock()
			defer mu.Unlock()
			plains[place.offset] = plain
		})
	}
	wg.Wait()
	if !w.Close() {
		t.Fatal("not ready")
	}
	if _, ok := w.Reserve(1, nil); ok {
		t.Error("room in a closed pack")
	}
	p, err := w.Finish(r)
	if err != nil {
		t.Fatal(err)
	}
	return p, plains
}

func TestPackRoundTrip(t *testing.T) {
	r, c := ring(t), codec(t)
	p, plains := write(t, r, c, 12)
	if p.Pack != Name(r, p.Bytes) || p.Pack != blake3.Sum256(p.Bytes[:len(p.Bytes)-keys.SignatureSize]) || int(p.Size) != len(p.Bytes) {
		t.Error("name or size is wrong")
	}
	_, need, err := OpenDirectory(r, p.Bytes[len(p.Bytes)-500:], int64(p.Size))
	if err != nil || need <= trailerSize {
		t.Fatalf("need %d, %v", need, err)
	}
	l, need, err := OpenDirectory(r, p.Bytes[len(p.Bytes)-need:], int64(p.Size))
	if err != nil || need != 0 {
		t.Fatalf("need %d, %v", need, err)
	}
	l.Pack = p.Pack
	if diff := cmp.Diff(p.Listing, l); diff != "" {
		t.Error(diff)
	}
	key, kind, err := r.OpenPackKey(p.Bytes[:r.PackHeaderSize()])
	if err != nil || kind != wire.DataPack {
		t.Fatal(kind, err)
	}
	for i := range l.Directory {
		s := &l.Directory[i]
		packed, err := key.Open(nil, s.Offset, p.Bytes[s.Offset:][:s.Length])
		if err != nil {
			t.Fatal(err)
		}
		plain, err := c.Unpack(nil, packed)
		if err != nil || !bytes.Equal(plain, plains[s.Offset]) {
			t.Errorf("segment %d: %v", i, err)
		}
		if err := s.Verify(plain, r.Data); err != nil {
			t.Error(err)
		}
		plain[0]++
		if err := s.Verify(plain, r.Data); !errors.Is(err, wire.ErrDamaged) {
			t.Errorf("changed content: %v", err)
		}
		if _, err := key.Open(nil, s.Offset+1, p.Bytes[s.Offset:][:s.Length]); err == nil {
			t.Error("opens at another place")
		}
	}
}

func TestIndexRoundTrip(t *testing.T) {
	r := ring(t)
	a, _ := write(t, r, codec(t), 3)
	b, _ := write(t, r, codec(t), 2)
	want := []Listing{a.Listing, b.Listing}
	object, err := SealIndex(r, "index/a", want)
	if err != nil {
		t.Fatal(err)
	}
	got, by, err := OpenIndex(r, "index/a", object)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || by.Signer != r.Certificate().Signer {
		t.Errorf("signed by %v: %s", by.Signer, diff)
	}
	if _, _, err := OpenIndex(ringOf(t, keys.Repository{3}), "index/a", object); !errors.Is(err, wire.ErrForged) {
		t.Errorf("opens in another repository: %v", err)
	}
}

// What an index object makes a reader allocate is a small multiple of its size, whatever it
// says that it holds: many tiny segments, or more of anything than there is.
func TestIndexAllocatesWhatIsThere(t *testing.T) {
	r := ring(t)
	l := Listing{Kind: wire.DataPack, Size: MaxPack}
	for i := range 100_000 {
		l.Directory = append(l.Directory, Segment{Length: SegmentOverhead + 1, Blocks: []Block{{Name: [32]byte{byte(i)}, Length: 1}}})
	}
	plain := append([]byte{0, 0, 1, 0, 0, 0}, l.Pack[:]...)
	plain = append(plain, byte(l.Kind))
	plain = binary.LittleEndian.AppendUint32(plain, l.Size)
	plain = append(plain, make([]byte, listingSigned)...)
	plain = l.Directory.append(plain)
	plain[0] = 1 // certificate, of no bytes
	plain = slices.Insert(plain, 2, 0, 0)
	segments := bytes.Index(plain, binary.LittleEndian.AppendUint32(nil, 100_000))
	for name, change := range map[string]func(b []byte){
		"as it is":         func([]byte) {},
		"too many packs":   func(b []byte) { binary.LittleEndian.PutUint32(b[4:], uint32(len(b)/(listingFixed+listingSigned))) },
		"tiny segments":    func(b []byte) { binary.LittleEndian.PutUint32(b[segments:], uint32(len(b)/segmentFixed)) },
		"a block too many": func(b []byte) { binary.LittleEndian.PutUint32(b[segments+8:], uint32(len(b)/blockFixed)) },
	} {
		b := bytes.Clone(plain)
		change(b)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		packs, err := parseIndex(r, b)
		runtime.ReadMemStats(&after)
		if whole := err == nil && len(packs) == 1 && len(packs[0].Directory) == 100_000; whole != (name == "as it is") {
			t.Errorf("%s: %v", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 3*uint64(len(b)) {
			t.Errorf("%s: %d bytes allocated for %d", name, got, len(b))
		}
	}
}

// A segment that does not open to what it was made of is noticed.
func TestVerifyFindsABrokenCompressor(t *testing.T) {
	r, c := ring(t), codec(t)
	w, err := NewWriter(r, c, wire.NodePack, make([]byte, 0, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	plain, blocks := content(r, 1, 3)
	packed := c.Pack(nil, plain)
	place, _ := w.Reserve(len(packed), blocks)
	plain[7]++
	if _, err := w.Fill(place, packed, plain, new(Scratch)); !errors.Is(err, ErrVerify) {
		t.Errorf("%v, want %v", err, ErrVerify)
	}
	if _, ok := w.Reserve(1<<20, nil); ok {
		t.Error("more than the memory holds")
	}
}

func TestCodec(t *testing.T) {
	c := codec(t)
	random := make([]byte, MaxSegment)
	rand.NewChaCha8([32]byte{1}).Read(random)
	for _, plain := range [][]byte{{1}, make([]byte, 100), make([]byte, MaxSegment), random} {
		packed := c.Pack(nil, plain)
		if len(packed) > len(plain)+1 {
			t.Errorf("%d bytes packed to %d", len(plain), len(packed))
		}
		if got, err := c.Unpack(nil, packed); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %v", len(plain), err)
		}
	}
	bomb := c.enc[Normal].EncodeAll(make([]byte, 64<<20), []byte{methodZstd})
	for name, packed := range map[string][]byte{"empty": {}, "method": {7, 1}, "bomb": bomb, "too long": make([]byte, MaxSegment+2)} {
		if _, err := c.Unpack(nil, packed); !errors.Is(err, wire.ErrDamaged) && !errors.Is(err, wire.ErrNewer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A padded pack has one of a few sizes, and opens as ever.
func TestPadding(t *testing.T) {
	for size, want := range map[int]int{1: 1, 9: 10, 1000: 1024, 1 << 20: 1 << 20, 1<<20 + 1: 1<<20 + 1<<15, 17 << 20: 17 << 20, 17<<20 + 9: 17<<20 + 1<<19} {
		if got := padme(size); got != want {
			t.Errorf("%d bytes are padded to %d, want %d", size, got, want)
		}
	}
	r, c := ring(t), codec(t)
	w, err := NewWriter(r, c, wire.DataPack, make([]byte, 0, 4<<20))
	if err != nil {
		t.Fatal(err)
	}
	w.Pad()
	plain, blocks := content(r, 1, 9)
	packed := c.Pack(nil, plain)
	place, _ := w.Reserve(len(packed), blocks)
	if _, err := w.Fill(place, packed, plain, new(Scratch)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p, err := w.Finish(r)
	if err != nil || padme(len(p.Bytes)) != len(p.Bytes) || len(p.Bytes) < len(packed)+r.PackHeaderSize() {
		t.Fatalf("%d bytes, %v", len(p.Bytes), err)
	}
	l, _, err := OpenDirectory(r, p.Bytes, int64(p.Size))
	l.Pack = Name(r, p.Bytes)
	if diff := cmp.Diff(p.Listing, l); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := l.Verify(r); err != nil {
		t.Error(err)
	}
}

// What an index object says of a pack is the word of who made the pack, and of nobody
// else.
func TestListingIsVerified(t *testing.T) {
	r := ring(t)
	p, _ := write(t, r, codec(t), 2)
	if c, err := p.Verify(r); err != nil || c.Label != "test" {
		t.Fatalf("%+v, %v", c, err)
	}
	for name, change := range map[string]func(l *Listing){
		"name":        func(l *Listing) { l.Pack[3]++ },
		"kind":        func(l *Listing) { l.Kind = wire.NodePack },
		"size":        func(l *Listing) { l.Size++ },
		"block":       func(l *Listing) { l.Directory[1].Blocks[0].Name[9]++ },
		"length":      func(l *Listing) { l.Directory[0].Blocks[0].Length++ },
		"signature":   func(l *Listing) { l.Signature[5]++ },
		"none":        func(l *Listing) { l.Signature = nil },
		"certificate": func(l *Listing) { l.Certificate[5]++ },
		"another's":   func(l *Listing) { l.Certificate = ringOf(t, keys.Repository{2}).Certificate().Bytes() },
	} {
		l := p.Listing
		l.Signature, l.Certificate = bytes.Clone(p.Signature), bytes.Clone(p.Certificate)
		l.Directory = slices.Clone(p.Directory)
		for i := range l.Directory {
			l.Directory[i].Blocks = slices.Clone(p.Directory[i].Blocks)
		}
		change(&l)
		if _, err := l.Verify(r); !errors.Is(err, wire.ErrForged) {
			t.Errorf("%s: %v, want %v", name, err, wire.ErrForged)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	r := ring(f)
	p, _ := write(f, r, codec(f), 2)
	plain := append([]byte{1, 0, byte(len(p.Certificate)), byte(len(p.Certificate) >> 8)}, p.Certificate...)
	plain = append(plain, 1, 0, 0, 0)
	plain = append(plain, p.Pack[:]...)
	plain = append(plain, 'D', byte(p.Size), byte(p.Size>>8), byte(p.Size>>16), byte(p.Size>>24), 0, 0)
	plain = p.Directory.append(append(plain, p.Signature...))
	if packs, err := parseIndex(r, plain); err != nil || len(packs) != 1 {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		packs, err := parseIndex(r, b)
		if err != nil {
			if !errors.Is(err, wire.ErrDamaged) {
				t.Error(err)
			}
			return
		}
		for i := range packs {
			for j := range packs[i].Directory {
				if s := &packs[i].Directory[j]; s.Offset+s.Length > packs[i].Size {
					t.Errorf("segment %d ends after the pack", j)
				}
			}
		}
	})
}

func FuzzOpenDirectory(f *testing.F) {
	r := ring(f)
	p, _ := write(f, r, codec(f), 2)
	f.Add(p.Bytes[len(p.Bytes)-2000:], int64(p.Size))
	f.Add(p.Bytes, int64(p.Size))
	f.Add([]byte("\x00\x01\x00\x00lullD\x01\x00\x00"), int64(5000))
	f.Fuzz(func(t *testing.T, tail []byte, size int64) {
		_, need, err := OpenDirectory(r, tail, size)
		if err == nil && int64(need) > size {
			t.Errorf("needs %d of %d", need, size)
		}
		if err != nil && !errors.Is(err, wire.ErrDamaged) && !errors.Is(err, wire.ErrNewer) {
			t.Error(err)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	c := codec(f)
	f.Add(c.Pack(nil, bytes.Repeat([]byte("seed"), 500)))
	f.Add(c.PackAt(nil, bytes.Repeat([]byte("seed"), 500), Fast))
	f.Add([]byte{methodStored, 1, 2})
	f.Fuzz(func(t *testing.T, packed []byte) {
		if plain, err := c.Unpack(nil, packed); err == nil && len(plain) > MaxSegment {
			t.Errorf("%d bytes", len(plain))
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	r, c := ring(b), codec(b)
	plain, blocks := content(r, 1, 24)
	plain = plain[:min(len(plain), MaxSegment)]
	packed := c.Pack(nil, plain)
	w, err := NewWriter(r, c, wire.DataPack, make([]byte, 0, 4<<20))
	if err != nil {
		b.Fatal(err)
	}
	place, _ := w.Reserve(len(packed), blocks)
	scratch := new(Scratch)
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		w.key.Seal(place.sealed[:0], place.offset, packed)
		if err := w.verify(place, plain, scratch); err != nil {
			b.Fatal(err)
		}
	}
}
