package repo

import (
	"errors"

	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Errors to test for with errors.Is. Those of the store (blob.ErrUnreachable and
// its like) pass through.
var (
	ErrNoRepository = errors.New("no lull repository here")
	ErrExists       = errors.New("a repository is here already")
	ErrPassphrase   = errors.New("wrong passphrase")
	ErrVersion      = errors.New("repository format is newer than this lull")
	ErrNotFound     = errors.New("no such restore point")
	ErrCorrupt      = errors.New("damaged repository object")
	// ErrHeld: a restore point is held, see Repository.Hold.
	ErrHeld = errors.New("restore point is held")
	// ErrWhole: a restore point that was to be given up can be read.
	ErrWhole = errors.New("restore point is not damaged")
	// ErrBusy: another host does the same maintenance now.
	ErrBusy = errors.New("another host is at it")
	// ErrFenced: maintenance took the session for dead, because it did not renew itself
	// for longer than the grace. Run again.
	ErrFenced = errors.New("the session was given up while it was away")

	// ErrForged: an object that no key of the repository signed, or one that may not.
	// It is a damaged one too (ErrCorrupt).
	ErrForged = wire.ErrForged
	// ErrOmitted: the store does not show what is known to have been there: it lost
	// it, withholds it or was set back. It is a damaged object too (ErrCorrupt).
	ErrOmitted = errors.New("missing from the store")
	// ErrRole: the key that opened the repository may not do that.
	ErrRole = keys.ErrRole
	// ErrPaper: a text that is no paper key of the repository, or was mistyped.
	ErrPaper = keys.ErrPaper
	// ErrNoKey: no key has that label.
	ErrNoKey = errors.New("no such key")
	// ErrKeyExists: a key has that label already.
	ErrKeyExists = errors.New("a key of that name is there already")
	// ErrLabel: no label of a key.
	ErrLabel = errors.New("no name of a key: 1 to 64 of a to z, 0 to 9, dot, underscore and dash")
	// ErrLastOwner: without that key nobody could manage the repository.
	ErrLastOwner = errors.New("the last key of an owner stays")
	// ErrReadOnly: the repository is of a format that is read but not written any more.
	ErrReadOnly = errors.New("repository format is read only")
)
