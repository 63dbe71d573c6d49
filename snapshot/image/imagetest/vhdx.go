package imagetest

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// VHDX is an image to make:
//
//	1 M log, 2 M metadata, 3 M block table, 4 M … blocks
type VHDX struct {
	Size   int64
	Block  int64
	Sector int64 // 0: 512
	ID     string
	Parent *Parent
	Writes []Write
	Full   bool            // every block that is written is fully present
	States map[int64]uint8 // of blocks without data

	// Log is what is only in the log: it is taken out of the file.
	Log []LogEntry
}

// LogEntry is one entry of a log: sectors of 4 KiB that it writes, and zeros.
type LogEntry struct {
	Sectors map[int64][]byte // by place in the file
	Zeros   [][2]int64       // place and length
	Torn    bool             // its end was not written
}

const (
	mib     = 1 << 20
	LogAt   = mib
	metaAt  = 2 * mib
	TableAt = 3 * mib
	DataAt  = 4 * mib
	logGUID = "01020304-0506-0708-090a-0b0c0d0e0f10"

	page = 4096
)

var le = binary.LittleEndian

// Bytes is the whole image.
func (v VHDX) Bytes(t testing.TB) []byte {
	t.Helper()
	if v.Sector == 0 {
		v.Sector = 512
	}
	b := make([]byte, DataAt)
	copy(b, "vhdxfile")
	b = v.fill(b)
	v.writeRegions(t, b)
	copy(b[metaAt:], v.metadata(t))
	log := ""
	if len(v.Log) > 0 {
		log = logGUID
		v.writeLog(t, b)
	}
	for i, at := range []int{64 << 10, 128 << 10} {
		copy(b[at:], v.header(t, uint64(i+7), log))
	}
	return b
}

// fill puts the blocks behind b and their entries into the table.
func (v VHDX) fill(b []byte) []byte {
	chunk := v.Sector << 23 / v.Block
	entry := func(i int64) []byte { return b[TableAt+8*i:] }
	for i, state := range v.States {
		le.PutUint64(entry(i+i/chunk), uint64(state))
	}
	blocks, bitmaps := map[int64]int64{}, map[int64]int64{}
	state := uint64(7)
	if v.Full || v.Parent == nil {
		state = 6
	}
	grow := func(n int64) int64 {
		at := int64(len(b))
		b = append(b, make([]byte, n)...)
		return at
	}
	eachSector(v.Writes, v.Sector, func(at int64, data []byte) {
		i := at / v.Block
		if blocks[i] == 0 {
			blocks[i] = grow(v.Block)
			le.PutUint64(entry(i+i/chunk), uint64(blocks[i])|state)
		}
		copy(b[blocks[i]+at%v.Block:], data)
		if state == 6 {
			return
		}
		c := i / chunk
		if bitmaps[c] == 0 {
			bitmaps[c] = grow(mib)
			le.PutUint64(entry((c+1)*chunk+c), uint64(bitmaps[c])|6)
		}
		bit := at / v.Sector % (1 << 23)
		b[bitmaps[c]+bit/8] |= 1 << (bit % 8)
	})
	return b
}

func (v VHDX) header(t testing.TB, sequence uint64, log string) []byte {
	b := make([]byte, page)
	copy(b, "head")
	le.PutUint64(b[8:], sequence)
	copy(b[16:], guidBytes(t, "99999999-0000-0000-0000-000000000001", true))
	copy(b[32:], guidBytes(t, v.ID, true))
	if log != "" {
		copy(b[48:], guidBytes(t, log, true))
	}
	le.PutUint16(b[66:], 1)
	le.PutUint32(b[68:], mib)
	le.PutUint64(b[72:], LogAt)
	return vhdxSum(b)
}

func (v VHDX) writeRegions(t testing.TB, b []byte) {
	r := b[192<<10 : 256<<10]
	copy(r, "regi")
	le.PutUint32(r[8:], 2)
	for i, e := range []struct {
		id string
		at uint64
	}{{"2dc27766-f623-4200-9d64-115e9bfd4a08", TableAt}, {"8b7ca206-4790-4b9a-b8fe-575f050f886e", metaAt}} {
		p := r[16+32*i:]
		copy(p, guidBytes(t, e.id, true))
		le.PutUint64(p[16:], e.at)
		le.PutUint32(p[24:], mib)
		le.PutUint32(p[28:], 1)
	}
	vhdxSum(r)
	copy(b[256<<10:], r)
}

func (v VHDX) metadata(t testing.TB) []byte {
	parameters := make([]byte, 8)
	le.PutUint32(parameters, uint32(v.Block))
	items := []struct {
		id    string
		flags uint32
		data  []byte
	}{
		{"caa16737-fa36-4d43-b3b6-33f0aa44e76b", 4, parameters},
		{"2fa54224-cd1b-4876-b211-5dbed83bf4b8", 6, le.AppendUint64(nil, uint64(v.Size))},
		{"beca12ab-b2e6-4523-93ef-c309e000c746", 6, guidBytes(t, "77777777-0000-0000-0000-000000000001", true)},
		{"8141bf1d-a96f-4709-ba47-f233a8faab5f", 6, le.AppendUint32(nil, uint32(v.Sector))},
		{"cda348c7-445d-4471-9cc9-e9885251c556", 6, le.AppendUint32(nil, 4096)},
	}
	if v.Parent != nil {
		le.PutUint32(parameters[4:], 2)
		items = append(items, struct {
			id    string
			flags uint32
			data  []byte
		}{"a8d35f2d-b30b-454d-abf7-d3d84834ab0c", 4, v.locator(t)})
	}
	b := make([]byte, 64<<10, 128<<10)
	copy(b, "metadata")
	le.PutUint16(b[10:], uint16(len(items)))
	for i, item := range items {
		e := b[32+32*i:]
		copy(e, guidBytes(t, item.id, true))
		le.PutUint32(e[16:], uint32(len(b)))
		le.PutUint32(e[20:], uint32(len(item.data)))
		le.PutUint32(e[24:], item.flags)
		b = append(b, item.data...)
	}
	return b
}

func (v VHDX) locator(t testing.TB) []byte {
	pairs := [][2]string{
		{"parent_linkage", "{" + v.Parent.ID + "}"},
		{"relative_path", v.Parent.Path},
		{"absolute_win32_path", `C:\VMs\` + v.Parent.Path},
	}
	b := make([]byte, 20+12*len(pairs))
	copy(b, guidBytes(t, "b04aefb7-d19e-4a81-b789-25b8e9445913", true))
	le.PutUint16(b[18:], uint16(len(pairs)))
	for i, p := range pairs {
		for j, s := range p {
			text := utf16Bytes(s, le)
			le.PutUint32(b[20+12*i+4*j:], uint32(len(b)))
			le.PutUint16(b[20+12*i+8+2*j:], uint16(len(text)))
			b = append(b, text...)
		}
	}
	return b
}

// writeLog puts the entries into the log, so that the second one goes round its
// end, and takes what they say out of the file.
func (v VHDX) writeLog(t testing.TB, b []byte) {
	const sequence = 41
	log := b[LogAt : LogAt+mib]
	var encoded [][]byte
	for i, e := range v.Log {
		encoded = append(encoded, e.encode(t, uint64(sequence+i), uint64(len(b))))
	}
	tail := (mib - len(encoded[0]) - page) % mib
	at := tail
	for _, e := range encoded {
		le.PutUint32(e[12:], uint32(tail))
		vhdxSum(e)
		if v.Log[0].Torn {
			e[len(e)-1] ^= 1
		}
		for i, c := range e {
			log[(at+i)%mib] = c
		}
		at = (at + len(e)) % mib
	}
	for i, e := range v.Log {
		if v.Log[0].Torn && i == 0 {
			continue
		}
		for off := range e.Sectors {
			for i := range page {
				b[off+int64(i)] = 0xdd
			}
		}
	}
}

func (e LogEntry) encode(t testing.TB, sequence, fileSize uint64) []byte {
	n := len(e.Sectors) + len(e.Zeros)
	b := make([]byte, roundUp(int64(64+32*n), page))
	copy(b, "loge")
	le.PutUint64(b[16:], sequence)
	le.PutUint32(b[24:], uint32(n))
	copy(b[32:], guidBytes(t, logGUID, true))
	le.PutUint64(b[48:], fileSize)
	le.PutUint64(b[56:], fileSize)
	i := 64
	for off, data := range e.Sectors {
		copy(b[i:], "desc")
		copy(b[i+4:], data[page-4:])
		copy(b[i+8:], data[:8])
		le.PutUint64(b[i+16:], uint64(off))
		le.PutUint64(b[i+24:], sequence)
		sector := append([]byte("data"), make([]byte, 4)...)
		le.PutUint32(sector[4:], uint32(sequence>>32))
		sector = append(sector, data[8:page-4]...)
		b = append(b, le.AppendUint32(sector, uint32(sequence))...)
		i += 32
	}
	for _, z := range e.Zeros {
		copy(b[i:], "zero")
		le.PutUint64(b[i+8:], uint64(z[1]))
		le.PutUint64(b[i+16:], uint64(z[0]))
		le.PutUint64(b[i+24:], sequence)
		i += 32
	}
	le.PutUint32(b[8:], uint32(len(b)))
	return b
}

// vhdxSum puts the CRC-32C of b into its place.
func vhdxSum(b []byte) []byte {
	le.PutUint32(b[4:], 0)
	le.PutUint32(b[4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// ResumVHDX puts the checksums right of an image that was tampered with, but for
// those of log entries whose length is not true any more.
func ResumVHDX(b []byte) {
	if len(b) < DataAt {
		return
	}
	for _, r := range [][2]int{{64 << 10, page}, {128 << 10, page}, {192 << 10, 64 << 10}, {256 << 10, 64 << 10}} {
		vhdxSum(b[r[0] : r[0]+r[1]])
	}
	log := b[LogAt : LogAt+mib]
	for at := 0; at < mib; at += page {
		n := int(le.Uint32(log[at+8:]))
		if string(log[at:at+4]) != "loge" || n <= 0 || n%page != 0 || n > mib {
			continue
		}
		whole := append(append([]byte{}, log[at:]...), log[:at]...)[:n]
		vhdxSum(whole)
		copy(log[at:], whole[:min(n, 8)])
	}
}
