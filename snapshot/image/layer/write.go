package layer

import "slices"

// Device is a file that is written to.
type Device interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
}

// Patch is bytes of an image's tables to be written at a place of its file.
type Patch struct {
	Off  int64  `json:"off"`
	Data []byte `json:"data"`
}

// Writer writes into the disk of an image whose file is a Device. Data goes to the
// file at once, where no table leads to it yet or where it replaces older data; what
// changes in tables comes as patches, which the caller writes after the data is
// durable. Not safe for concurrent use.
type Writer interface {
	// Write writes whole sectors at an offset on the disk, within one call of ever
	// higher offsets.
	Write(p []byte, off int64) error

	// Patches are what is to be written since the last call, and how long the file
	// is with it.
	Patches() (list []Patch, size int64)

	// Pending is about how many bytes of patches wait.
	Pending() int

	// End is where the file ends but for what the patches of the next call rewrite
	// there: after a crash the file is cut there, and what lies beyond was of no use.
	End() int64
}

// patchCost is what a patch takes beside its bytes, about.
const patchCost = 64

// Patcher collects the patches of a Writer: those of its tables, and of the bitmap that it
// is at. The zero value is ready.
type Patcher struct {
	list    []Patch
	pending int

	bits    []byte
	at      int64 // of bits, in the file
	changed bool
}

// Patch notes bytes for a place of the file.
func (t *Patcher) Patch(off int64, data []byte) {
	t.list = append(t.list, Patch{Off: off, Data: data})
	t.pending += len(data) + patchCost
}

// Bitmap goes to the bitmap of length bytes at a place of the file. Where that is another
// than before, it is all zeros, and fresh: the caller fills it.
func (t *Patcher) Bitmap(at, length int64) (bits []byte, fresh bool) {
	if t.bits != nil && t.at == at {
		return t.bits, false
	}
	t.flush()
	t.bits, t.at = make([]byte, length), at
	return t.bits, true
}

// Mark sets n bits of the bitmap from first on, as SetBits does.
func (t *Patcher) Mark(first, n int64, highFirst bool) {
	SetBits(t.bits, first, n, highFirst)
	t.changed = true
}

// flush makes a patch of the bitmap.
func (t *Patcher) flush() {
	if t.changed {
		t.Patch(t.at, slices.Clone(t.bits))
	}
	t.changed = false
}

// Pending is what Writer's is.
func (t *Patcher) Pending() int { return t.pending }

// Take returns the patches since the last call.
func (t *Patcher) Take() []Patch {
	t.flush()
	list := t.list
	t.list, t.pending = nil, 0
	return list
}
