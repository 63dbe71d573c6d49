package repo

import (
	"context"
	"errors"

	"github.com/lull-backup/lull/transport/blob"
)

// errUnbuilt is returned by what is declared ahead of its body.
var errUnbuilt = errors.New("repository: not built yet")

// Init makes a new repository in an empty store.
func Init(ctx context.Context, store blob.Store, o InitOptions) (ID, error) {
	return ID{}, errUnbuilt
}

// Open opens a repository.
func Open(ctx context.Context, store blob.Store, o OpenOptions) (*Repository, error) {
	return nil, errUnbuilt
}

// ID names a repository.
type ID [16]byte

// InitOptions say how a repository is made.
type InitOptions struct {
	Passphrase []byte
}

// OpenOptions say how a repository is opened.
type OpenOptions struct {
	Passphrase []byte
	Cache      string // folder for the index cache; empty: a temporary one
}

// Repository is an open repository.
type Repository struct{}

func (r *Repository) ID() ID       { return ID{} }
func (r *Repository) Close() error { return errUnbuilt }

// Points lists the restore points of a VM, or of all when vm is empty.
func (r *Repository) Points(ctx context.Context, vm string) ([]Point, error) { return nil, errUnbuilt }

// Begin starts a session. Its uploads end with ctx.
func (r *Repository) Begin(ctx context.Context) (*Session, error) { return nil, errUnbuilt }

// ReadStream calls write for every range of root that is not zero, once.
func (r *Repository) ReadStream(ctx context.Context, root Root, workers int, write func(ctx context.Context, off int64, data []byte) error) error {
	return errUnbuilt
}

// Check proves the repository.
func (r *Repository) Check(ctx context.Context, o CheckOptions) (CheckReport, error) {
	return CheckReport{}, errUnbuilt
}

// CheckOptions say how much a check reads.
type CheckOptions struct {
	ReadAll  bool
	Progress func(done, total int64) // bytes; may be nil
}

// CheckReport is what a check found.
type CheckReport struct {
	Points, Objects int
	Blocks, Bytes   int64
	Problems        []Problem
}

// Problem is one damaged or missing object.
type Problem struct {
	Object string   `json:"object"`
	Points []string `json:"points,omitempty"`
	Err    string   `json:"error"`
}

// Session takes the streams of one restore point.
type Session struct{}

// Stream begins a disk or file of size bytes.
func (s *Session) Stream(ctx context.Context, size int64, parent *Root) (*Stream, error) {
	return nil, errUnbuilt
}
func (s *Session) Stats() Stats                                       { return Stats{} }
func (s *Session) Commit(ctx context.Context, p Point) (Point, error) { return p, errUnbuilt }
func (s *Session) Close() error                                       { return errUnbuilt }

// Stream takes the windows of one disk or file.
type Stream struct{}

func (st *Stream) Put(ctx context.Context, window int64, data []byte) error { return errUnbuilt }
func (st *Stream) Zero(first, count int64) error                            { return errUnbuilt }
func (st *Stream) Keep(first, count int64) error                            { return errUnbuilt }
func (st *Stream) Finish(ctx context.Context) (Root, error)                 { return Root{}, errUnbuilt }
