package repo

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxStopping bounds the points that a stoppedError names.
const maxStopping = 20

// stoppedError is why maintenance cannot tell what is needed: restore points that nobody can
// read, or parts of whose maps are missing. It names them, and what gets rid of them.
type stoppedError struct {
	damaged []string // ids, of those that cannot be read
	lost    []string // of those that can
	signers []string // labels of their keys
	errs    []error
	more    int
}

func (s *stoppedError) Error() string {
	text := errors.Join(s.errs...).Error()
	if s.more > 0 {
		text += fmt.Sprintf("\nand %d restore points more", s.more)
	}
	return text
}

func (s *stoppedError) Unwrap() []error { return s.errs }

// Hint is what the administrator can do about them.
func (s *stoppedError) Hint() string {
	var ways []string
	if len(s.damaged) > 0 {
		ways = append(ways, "lull forget --damaged "+strings.Join(s.damaged, ","))
	}
	if len(s.lost) > 0 {
		ways = append(ways, "lull forget --point "+strings.Join(s.lost, ",")+" --even-last")
	}
	hint := "get back from a copy of the store what is missing, or give the points up: " + strings.Join(ways, " and ")
	for _, label := range s.signers {
		hint += "; all that a key has signed: lull forget --all --signed-by " + label
	}
	return hint
}

// unreadable takes down a point that cannot be read. Whose it is is asked for one that is
// named only: the object is read once more for that.
func (s *stoppedError) unreadable(object string, signer func() string, err error) {
	if !s.room() {
		return
	}
	s.add(signer(), err)
	if id, ok := pointID(object); ok {
		s.damaged = append(s.damaged, id)
	}
}

// incomplete takes down a point that has lost a part of its maps.
func (s *stoppedError) incomplete(p *Point, err error) {
	if !s.room() {
		return
	}
	s.add(p.SignedBy, fmt.Errorf("point %s of %s: %w", p.ID, p.VM, err))
	s.lost = append(s.lost, p.ID)
}

// room tells whether one more is named; else it is counted.
func (s *stoppedError) room() bool {
	if len(s.errs) == maxStopping {
		s.more++
		return false
	}
	return true
}

func (s *stoppedError) add(signer string, err error) {
	s.errs = append(s.errs, err)
	if signer != "" && !slices.Contains(s.signers, signer) {
		s.signers = append(s.signers, signer)
	}
}

// err is nil when nothing was taken down.
func (s *stoppedError) err() error {
	if len(s.errs) == 0 {
		return nil
	}
	return s
}
