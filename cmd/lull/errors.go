package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
)

// marked is an error that counts as kind for the exit code but does not show it
// in its text.
type marked struct {
	error
	kind error
}

func (m *marked) Unwrap() []error { return []error{m.error, m.kind} }

// usagef is a mistake on the command line.
func usagef(format string, args ...any) error {
	return &marked{fmt.Errorf(format, args...), errUsage}
}

// missingf is something that was named and is not there.
func missingf(format string, args ...any) error {
	return &marked{fmt.Errorf(format, args...), errNotFound}
}

// withHint adds the next step.
func withHint(err error, format string, args ...any) error {
	return snapshot.WithHint(err, fmt.Sprintf(format, args...))
}

// report is an error as --json shows it.
type report struct {
	VM       string    `json:"vm,omitempty"`
	Error    string    `json:"error"`
	Hint     string    `json:"hint,omitempty"`
	Problems []problem `json:"problems,omitempty"`
	ExitCode int       `json:"exit_code"`
}

// problem is one mistake of a configuration as --json shows it.
type problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	What    string `json:"what"`
	Instead string `json:"instead"`
}

func problems(list []config.Problem) []problem {
	var out []problem
	for _, p := range list {
		out = append(out, problem{File: p.File, Line: p.Line, What: p.What, Instead: p.Instead})
	}
	return out
}

// errorLines are what stands for err on stderr: one line, and only for a
// configuration with several mistakes one line each.
func errorLines(err error) []string {
	var wrong config.Errors
	if !errors.As(err, &wrong) {
		return []string{errorLine(err)}
	}
	var lines []string
	for _, p := range wrong {
		lines = append(lines, "lull: config: "+printable(p.String()))
	}
	return lines
}

// errorLine is the one line of an error: what: where: cause; hint.
func errorLine(err error) string {
	line := "lull: " + plainError(err)
	if hint := hintOf(err); hint != "" {
		line += "; " + printable(hint)
	}
	return line
}

// plainError is the text of err on one line. Joined errors, which the standard
// library sets one below the other, read on.
func plainError(err error) string {
	return printable(strings.ReplaceAll(err.Error(), "\n", ", and "))
}

// printable makes text from anywhere safe for one line of a terminal: control
// and format characters become spaces, and runs of space one.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// writeJSON writes one JSON document on one line.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// plainPath turns "open PATH: cause" of package os into "PATH: cause".
func plainPath(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return err
}
