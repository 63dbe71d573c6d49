package record

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"time"
)

const (
	// RecordSize is the size of a record and of a slot, in bytes: one page, so
	// that a record is never spread over two blocks of a file system.
	RecordSize = 4096
	// DefaultCapacity is how many records a log keeps: 64 MiB on each disk.
	DefaultCapacity = 16384
	// FileName is the log's name on each disk.
	FileName = "records.log"
)

// Layout of a record, integers little-endian.
const (
	offMagic  = 0  // 8 bytes
	offNumber = 8  // uint64, from 1
	offTime   = 16 // int64, nanoseconds since 1970 by the guest's clock
	offBoot   = 24 // uint32, from 1: which start of the recorder wrote it
	offBody   = 32
	offSum    = RecordSize - 4 // uint32, CRC-32C of all before
)

const magic = "LULLREC1"

// errTorn: a slot holds no whole record.
var errTorn = errors.New("torn record")

// Record is one entry of the log.
type Record struct {
	Number uint64
	Time   time.Time
	Boot   uint32
}

// encode fills p, RecordSize bytes, with r.
func (r Record) encode(p []byte) {
	copy(p[offMagic:], magic)
	binary.LittleEndian.PutUint64(p[offNumber:], r.Number)
	binary.LittleEndian.PutUint64(p[offTime:], uint64(r.Time.UnixNano()))
	binary.LittleEndian.PutUint32(p[offBoot:], r.Boot)
	binary.LittleEndian.PutUint32(p[offBoot+4:], 0)
	noise := rand.NewPCG(r.Number, uint64(r.Boot))
	for i := offBody; i+8 <= offSum; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], noise.Uint64())
	}
	clear(p[offSum-(offSum-offBody)%8 : offSum])
	binary.LittleEndian.PutUint32(p[offSum:], checksum(p))
}

// decode reads a record from p, RecordSize bytes.
func decode(p []byte) (Record, error) {
	if string(p[offMagic:offMagic+len(magic)]) != magic || binary.LittleEndian.Uint32(p[offSum:]) != checksum(p) {
		return Record{}, errTorn
	}
	return Record{
		Number: binary.LittleEndian.Uint64(p[offNumber:]),
		Time:   time.Unix(0, int64(binary.LittleEndian.Uint64(p[offTime:]))),
		Boot:   binary.LittleEndian.Uint32(p[offBoot:]),
	}, nil
}

func checksum(p []byte) uint32 {
	return crc32.Checksum(p[:offSum], crc32.MakeTable(crc32.Castagnoli))
}

// slot is where record n stands in a ring. Numbers start with 1.
func slot(n, capacity uint64) uint64 { return (n - 1) % capacity }
