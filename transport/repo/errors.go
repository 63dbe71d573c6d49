package repo

import "errors"

// Errors to test for with errors.Is. Those of the store (blob.ErrUnreachable and
// its like) pass through.
var (
	ErrNoRepository = errors.New("no lull repository here")
	ErrExists       = errors.New("a repository is here already")
	ErrPassphrase   = errors.New("wrong passphrase")
	ErrVersion      = errors.New("repository format is newer than this lull")
	ErrNotFound     = errors.New("no such restore point")
	ErrCorrupt      = errors.New("damaged repository object")
)
