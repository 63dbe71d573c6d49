package layer

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
