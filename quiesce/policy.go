package quiesce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Window budgets: the whole time between the first Freeze and the last Thaw.
const (
	DefaultWindow = 10 * time.Second
	MaxWindow     = 60 * time.Second
)

// Policy is how far a run may go down.
type Policy struct {
	Ladder []Level       // strictly falling, not empty
	Floor  Level         // a rung of the ladder
	Window time.Duration // 0: DefaultWindow; at most MaxWindow
	Retry  Retry         // zero: nothing is tried again
}

// Check says what is wrong with a policy.
func (p Policy) Check() error {
	if len(p.Ladder) == 0 {
		return errors.New("consistency ladder is empty")
	}
	for i, l := range p.Ladder {
		if l <= LevelNone || l > LevelApplication {
			return fmt.Errorf("consistency ladder: %v is no level", l)
		}
		if i > 0 && l >= p.Ladder[i-1] {
			return fmt.Errorf("consistency ladder: %v may not come after %v, each level must be lower than the one before", l, p.Ladder[i-1])
		}
	}
	if !slices.Contains(p.Ladder, p.Floor) {
		return fmt.Errorf("consistency floor %v is not in the ladder", p.Floor)
	}
	if p.Window < 0 || p.Window > MaxWindow {
		return fmt.Errorf("freeze window %v: must be at most %v", p.Window, MaxWindow)
	}
	return p.Retry.check()
}

func (p Policy) window() time.Duration {
	if p.Window == 0 {
		return DefaultWindow
	}
	return p.Window
}

// Thawer is the way to thaw the file systems of a guest past all writers; a
// snapshot.Guest is one.
type Thawer interface {
	ThawFilesystems(ctx context.Context) (int, error)
	FilesystemsFrozen(ctx context.Context) (bool, error)
}

// Report is what holding still came to.
type Report struct {
	Asked   Level    `json:"asked"`             // the ladder's top
	Level   Level    `json:"level"`             // achieved
	Reasons []string `json:"reasons,omitempty"` // why not higher, one line each
	// Attempts failed in a way that may pass, and were made again: one line each.
	Attempts []string `json:"attempts,omitempty"`
	// Warnings are what writers found, at no loss of level.
	Warnings []string `json:"warnings,omitempty"`
	// Window is the time between the first Freeze and the last Thaw; 0 where
	// nothing was frozen.
	Window  time.Duration  `json:"window"`
	Writers []WriterReport `json:"writers,omitempty"`
	// Components are the outcomes of all that was asked to hold still, held or not.
	Components []Outcome `json:"components,omitempty"`
}

// WriterReport is one writer's part in the achieved level.
type WriterReport struct {
	Identity Identity `json:"identity"`
	Document []byte   `json:"document,omitempty"`
}
