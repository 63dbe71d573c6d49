package vhdx

import (
	"cmp"
	"errors"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

const (
	logSector     = 4 << 10
	logHeader     = 64
	logDescriptor = 32
	logBuffer     = 64 << 10

	// A good log holds its sectors once in valid entries, and a few times more in
	// what is left of older ones. What goes on longer is made to keep us busy.
	logEffort = 8
	logSteps  = 1 << 20

	logPatches = 1 << 17
)

// logEntry is a valid entry of the log.
type logEntry struct {
	at       int64 // in the log
	length   int64
	tail     int64 // where the oldest entry is that still counts with this one
	sequence uint64
	count    int64 // of descriptors
	flushed  int64 // the file is that long at least
	last     int64 // and is to become that long
}

// logReader reads the log of an image, which goes round.
type logReader struct {
	f      *layer.File
	head   header
	effort int64 // bytes that may still be summed up
}

// replayLog finds what the log says on top of the file.
func (v *Image) replayLog() error {
	r := &logReader{f: v.f, head: v.head, effort: logEffort * v.head.logLength}
	entries, err := r.entries()
	if err != nil {
		return err
	}
	active, err := r.active(entries)
	if err != nil || len(active) == 0 {
		return err
	}
	newest := active[len(active)-1]
	if newest.flushed > v.f.Size {
		return v.f.Corrupt("file of %#x bytes, but its log knows of %#x", v.f.Size, newest.flushed)
	}
	v.size = max(v.size, newest.last)
	var patches []patch
	for _, e := range active {
		p, err := r.patches(e)
		if err != nil {
			return err
		}
		if patches = append(patches, p...); len(patches) > logPatches {
			return v.f.Unsupported("log of more than %d patches", logPatches)
		}
	}
	v.log = paint(patches)
	return nil
}

// entries finds every valid entry, by its place in the log.
func (r *logReader) entries() (map[int64]logEntry, error) {
	found := map[int64]logEntry{}
	b := make([]byte, logHeader)
	for at := int64(0); at < r.head.logLength; at += logSector {
		if err := r.f.Read(b, r.head.logAt+at, "log"); err != nil {
			return nil, err
		}
		e, ok := r.parse(at, b)
		if !ok {
			continue
		}
		ok, err := r.summed(e, b)
		if err != nil {
			return nil, err
		}
		if ok {
			found[at] = e
		}
	}
	return found, nil
}

// parse tells whether the header of an entry can be one of this log's.
func (r *logReader) parse(at int64, b []byte) (logEntry, bool) {
	if string(b[:4]) != "loge" || readGUID(b[32:]) != r.head.log {
		return logEntry{}, false
	}
	e := logEntry{
		at: at, length: int64(le.Uint32(b[8:])), tail: int64(le.Uint32(b[12:])), sequence: le.Uint64(b[16:]),
		count: int64(le.Uint32(b[24:])), flushed: int64(le.Uint64(b[48:])), last: int64(le.Uint64(b[56:])),
	}
	ok := e.length > 0 && e.length%logSector == 0 && e.length <= r.head.logLength &&
		e.tail%logSector == 0 && e.tail < r.head.logLength && e.sequence > 0 &&
		e.count <= (e.length-logHeader)/logDescriptor && e.flushed >= 0 && e.last >= 0 && e.last <= 1<<62
	return e, ok
}

// summed checks the checksum of a whole entry.
func (r *logReader) summed(e logEntry, head []byte) (bool, error) {
	if r.effort -= e.length; r.effort < 0 {
		return false, r.f.Corrupt("log at %#x has more entries than fit into it", r.head.logAt)
	}
	table, n := crc32.MakeTable(crc32.Castagnoli), uint32(0)
	b := make([]byte, min(logBuffer, e.length))
	for done := int64(0); done < e.length; done += int64(len(b)) {
		b = b[:min(int64(len(b)), e.length-done)]
		if err := r.read(b, e.at+done); err != nil {
			return false, err
		}
		if done == 0 {
			le.PutUint32(b[4:], 0)
		}
		n = crc32.Update(n, table, b)
	}
	return n == le.Uint32(head[4:]), nil
}

// read fills p from a place in the log, and goes on at its beginning.
func (r *logReader) read(p []byte, at int64) error {
	for len(p) > 0 {
		at %= r.head.logLength
		n := min(int64(len(p)), r.head.logLength-at)
		if err := r.f.Read(p[:n], r.head.logAt+at, "log"); err != nil {
			return err
		}
		p, at = p[n:], at+n
	}
	return nil
}

// active is the sequence of entries that is to be replayed, oldest first: the one
// that ends with the newest entry from whose tail entries lead up to it.
func (r *logReader) active(entries map[int64]logEntry) ([]logEntry, error) {
	next := func(e logEntry) (logEntry, bool) {
		n, ok := entries[(e.at+e.length)%r.head.logLength]
		return n, ok && n.sequence == e.sequence+1
	}
	newest := slices.SortedFunc(maps.Values(entries), func(a, b logEntry) int { return cmp.Compare(b.sequence, a.sequence) })
	steps := 0
	for _, head := range newest {
		e, ok := entries[head.tail]
		var sequence []logEntry
		for ok && e.sequence <= head.sequence {
			if steps++; steps > logSteps {
				return nil, r.f.Corrupt("log at %#x does not add up", r.head.logAt)
			}
			sequence = append(sequence, e)
			if e.at == head.at {
				return sequence, nil
			}
			e, ok = next(e)
		}
	}
	return nil, nil
}

var errDescriptors = errors.New("descriptors do not add up")

// patches reads the descriptors of an entry.
func (r *logReader) patches(e logEntry) ([]patch, error) {
	data := layer.RoundUp(logHeader+e.count*logDescriptor, logSector) // of the sectors behind the descriptors
	var patches []patch
	b := make([]byte, logDescriptor)
	for i := range e.count {
		if err := r.read(b, e.at+logHeader+i*logDescriptor); err != nil {
			return nil, err
		}
		p, err := describe(b, e)
		if err == nil && p.data && data+logSector > e.length {
			err = errDescriptors
		}
		if err != nil {
			return nil, r.f.Corrupt("log entry %d: %v", e.sequence, err)
		}
		if p.data {
			p.from = r.head.logAt + (e.at+data)%r.head.logLength
			data += logSector
		}
		patches = append(patches, p)
	}
	return patches, nil
}

// describe reads one descriptor.
func describe(b []byte, e logEntry) (patch, error) {
	at := le.Uint64(b[16:])
	if le.Uint64(b[24:]) != e.sequence || at%logSector != 0 || at > 1<<62 {
		return patch{}, errDescriptors
	}
	p := patch{start: int64(at), end: int64(at) + logSector}
	switch string(b[:4]) {
	case "desc":
		p.data = true
		copy(p.first[:], b[8:16])
		copy(p.last[:], b[4:8])
		return p, nil
	case "zero":
		length := le.Uint64(b[8:])
		if length%logSector != 0 || length > 1<<62 {
			return patch{}, errDescriptors
		}
		p.end = p.start + int64(length)
		return p, nil
	}
	return patch{}, errDescriptors
}
