package quiescetest

import (
	"context"
	"io"
)

// TB is what a test of a kit needs of *testing.T. Kits name no *testing.T, so
// that `lull plugin verify` can run the same tests and make a report of them.
type TB interface {
	Helper()
	Context() context.Context
	Log(args ...any)
	Logf(format string, args ...any)
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(fn func())
	Output() io.Writer
}

// T is a TB that runs tests below itself; *testing.T is T[*testing.T].
type T[Self any] interface {
	TB
	Run(name string, fn func(Self)) bool
}
