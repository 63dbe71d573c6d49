package config

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong in the file, or hardly meant.
type Problem struct {
	File    string
	Line    int    // from 1; 0 where the file as a whole is meant
	What    string // is wrong
	Instead string // what to write instead
}

// String is file:line: what is wrong; what to write instead.
func (p Problem) String() string {
	at := p.File
	if p.Line > 0 {
		at = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return at + ": " + p.What + "; " + p.Instead
}

// Errors is everything that is wrong in a file, sorted by line. Load
// returns it for a file that could be read but not used.
type Errors []Problem

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func sortProblems(list []Problem) {
	slices.SortStableFunc(list, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return strings.Compare(a.What, b.What)
	})
}
