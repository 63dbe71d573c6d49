package repo

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Compression is how hard backups compress.
type Compression string

// What Compression may be; empty is Auto. Readers need not know: each segment says
// how it was made.
const (
	// Auto is zstd as fast as it goes, and zstd's default while the store is what
	// a backup waits for, or most of what it meets is known: what little is new then
	// is compressed well, at a price that the run as a whole hardly feels.
	Auto Compression = "auto"
	// CompressFast is S2: about six tenths of the processor's time, a third more in
	// the store. Format 2 only; else it is Auto without the climb.
	CompressFast Compression = "fast"
	// CompressBest is a strong zstd, at a quarter of the speed.
	CompressBest Compression = "best"
)

// Compressions lists them.
func Compressions() []Compression { return []Compression{Auto, CompressFast, CompressBest} }

var errCompression = errors.New("compression: want auto, fast or best")

func (c Compression) check() error {
	if c != "" && !slices.Contains(Compressions(), c) {
		return fmt.Errorf("%w: not %q", errCompression, string(c))
	}
	return nil
}

// ladder lists the levels of a setting, from the one that a session begins with.
func (c Compression) ladder(format wire.Format) []pack.Level {
	switch {
	case c == CompressBest:
		return []pack.Level{pack.Highest}
	case c == CompressFast && format >= 2:
		return []pack.Level{pack.Fast}
	case c == CompressFast:
		return []pack.Level{pack.Normal}
	}
	return []pack.Level{pack.Normal, pack.High}
}

// What moves a pace. A level costs about 1.7 times the one below. Workers that wait
// for more than 0.6 of their time still wait after the climb, for more than 0.3 of it:
// so a climb is not taken back at once.
const (
	paceRound  = 16   // segments that are looked at together
	paceClimb  = 0.6  // of the workers' time is waited: a level up
	paceBack   = 0.2  // less than this: a level down
	paceAgreed = 2    // rounds in a row
	paceNew    = 0.65 // of what was met is new: no more than this is little
)

// pace chooses the level at which a session compresses. Where the store is what it
// waits for, the processor's time is free and spent on making less of it; where the
// processor is, it is not; and neither counts where little is to be compressed. Which
// level a segment has matters to nothing else.
type pace struct {
	mu             sync.Mutex
	ladder         []pack.Level
	at             int
	worked, waited time.Duration // of this round
	segments       int           // of this round
	votes          int           // rounds in a row for up (positive) or down
}

// level is that of the next segment, of a session that has met so many bytes that were
// known and that were new.
func (p *pace) level(known, fresh int64) pack.Level {
	p.mu.Lock()
	defer p.mu.Unlock()
	if float64(fresh) <= paceNew*float64(known+fresh) {
		return p.ladder[len(p.ladder)-1]
	}
	return p.ladder[p.at]
}

// note hears how long a segment took to compress, and how long its worker then
// waited for room in a pack, which is to say for the store.
func (p *pace) note(worked, waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.worked += worked
	p.waited += waited
	if p.segments++; p.segments < paceRound {
		return
	}
	p.vote(float64(p.waited) / float64(max(p.worked+p.waited, 1)))
	p.segments, p.worked, p.waited = 0, 0, 0
}

// vote takes in a round, of whose time this share was waited.
func (p *pace) vote(share float64) {
	switch {
	case share > paceClimb:
		p.votes = max(p.votes, 0) + 1
	case share < paceBack:
		p.votes = min(p.votes, 0) - 1
	default:
		p.votes = 0
	}
	switch {
	case p.votes >= paceAgreed:
		p.at, p.votes = min(p.at+1, len(p.ladder)-1), 0
	case p.votes <= -paceAgreed:
		p.at, p.votes = max(p.at-1, 0), 0
	}
}
