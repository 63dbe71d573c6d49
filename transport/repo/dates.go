package repo

import (
	"fmt"
	"time"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// maxAhead is how far a point may be dated later than it came.
const maxAhead = 24 * time.Hour

// timely fails for a date that no host had yet when an object came: a point of next year
// would be the newest of its VM for a year. Two clocks must say so, the store's and this
// host's: one alone may be wrong. Times of the past are believed; backups take their time,
// and copies are older than what they lie in.
func (r *Repository) timely(date, came time.Time) error {
	latest := came
	if now := r.now(); now.After(latest) {
		latest = now
	}
	if date.Sub(latest) <= maxAhead {
		return nil
	}
	return fmt.Errorf("%w at that time: it is dated %s, and came at %s", wire.ErrForged,
		date.UTC().Format(time.RFC3339), came.UTC().Format(time.RFC3339))
}

// timelyName is timely for the date in the name of a point's object.
func (r *Repository) timelyName(object string, came time.Time) error {
	id, ok := pointID(object)
	if !ok {
		return nil // nothing is opened under such a name
	}
	date, err := time.Parse(idTime, id[:len(idTime)])
	if err != nil {
		return fmt.Errorf("%w: no date in the name", wire.ErrDamaged)
	}
	return r.timely(date, came)
}
