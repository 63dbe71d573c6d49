package agent

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lull-backup/lull/transport/repo"
)

// maker is who made a restore point: the key that signed it and, for a copy, the key that
// had made the original, by the word of the one that signed. So a key that is not to be
// trusted chooses among makers of its own only.
type maker struct {
	signer         string
	repository, of string // of a copy: its origin's id, and the label there
	rest           bool   // copies of those beyond maxOrigins
}

// maxOrigins bounds how many origins copies that one key signed of one VM are counted by,
// as rules keep a point of each: the newest count on their own, the rest as one.
const maxOrigins = 32

func makerOf(p *repo.Point) maker {
	m := maker{signer: p.SignedBy}
	if p.Origin != nil {
		m.repository, m.of = p.Origin.Repository, p.Origin.SignedBy
	}
	return m
}

func (m maker) copied() bool { return m.repository != "" || m.of != "" }

// idDigits are enough of a repository's id to tell it from others.
const idDigits = 8

func (m maker) String() string {
	switch {
	case m.rest:
		return m.signer + " (copied: others)"
	case !m.copied():
		return m.signer
	}
	from := shown(m.repository[:min(len(m.repository), idDigits)])
	if m.of != "" {
		from = shown(m.of) + " in " + from
	}
	return m.signer + " (copied: " + from + ")"
}

// shown is a word of somebody as it may be shown.
func shown(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == "" && len(s) <= 64 {
		return s
	}
	return fmt.Sprintf("%.64q", s)
}

// makersOf are the makers of the restore points of one VM, which are oldest first: that of
// the newest point comes first. of says whose each point is.
func makersOf(points []repo.Point) (makers, of []maker) {
	of = make([]maker, len(points))
	known, origins := map[maker]bool{}, map[string]int{}
	for i := range slices.Backward(points) {
		m := makerOf(&points[i])
		if m.copied() && !known[m] && origins[m.signer] == maxOrigins {
			m = maker{signer: m.signer, rest: true}
		}
		of[i] = m
		if known[m] {
			continue
		}
		known[m] = true
		makers = append(makers, m)
		if m.copied() {
			origins[m.signer]++
		}
	}
	return makers, of
}

// MadeBy names who made a restore point: the label of the key that signed it and, of a copy,
// that of the original's.
func MadeBy(p *repo.Point) string { return makerOf(p).String() }

// Signers name who made the restore points of one VM, which are oldest first; who made the
// newest point comes first.
func Signers(points []repo.Point) (labels []string) {
	makers, _ := makersOf(points)
	for _, m := range makers {
		labels = append(labels, m.String())
	}
	return labels
}
