package plugintest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// recorder stands for *testing.T where there is none: it runs the same tests and
// keeps what they say.
type recorder struct {
	ctx  context.Context
	tell func(Result) // hears each test without tests below it as it ends

	mu      sync.Mutex
	result  Result
	output  bytes.Buffer
	cleanup []func()
	parents int // tests below it
}

// Verify holds a plugin to the contract. Each result is told as soon as it is there;
// tell may be nil.
func Verify(ctx context.Context, o Options, tell func(Result)) Report {
	if tell == nil {
		tell = func(Result) {}
	}
	report := Report{Path: o.Path, Started: time.Now()}
	root := &recorder{ctx: ctx, tell: func(r Result) {
		report.Results = append(report.Results, r)
		tell(r)
	}}
	root.run(func(r *recorder) { Run(r, o) })
	if len(root.result.Failures) > 0 {
		root.result.Name = "Verify"
		root.tell(root.result)
	}
	if err := ctx.Err(); err != nil {
		report.Interrupted = context.Cause(ctx).Error()
	}
	report.Took = time.Since(report.Started)
	return report
}

// run is one test on a goroutine of its own, which Fatal can end.
func (r *recorder) run(fn func(*recorder)) {
	begin := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.runCleanups()
		defer r.recovered()
		fn(r)
	}()
	<-done
	r.result.Took = time.Since(begin)
	r.result.Log = r.output.String()
}

func (r *recorder) recovered() {
	if p := recover(); p != nil {
		r.Errorf("the kit panicked: %v\n%s", p, debug.Stack())
	}
}

func (r *recorder) runCleanups() {
	for {
		r.mu.Lock()
		if len(r.cleanup) == 0 {
			r.mu.Unlock()
			return
		}
		last := r.cleanup[len(r.cleanup)-1]
		r.cleanup = r.cleanup[:len(r.cleanup)-1]
		r.mu.Unlock()
		last()
	}
}

// Run runs a test below this one, unless the whole is interrupted.
func (r *recorder) Run(name string, fn func(*recorder)) bool {
	if r.ctx.Err() != nil {
		return false
	}
	if r.result.Name != "" {
		name = r.result.Name + "/" + name
	}
	r.parents++
	// Cleanups outlive the test's context, as in package testing.
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	sub := &recorder{ctx: ctx, tell: r.tell, result: Result{Name: name}}
	sub.run(fn)
	if sub.parents == 0 || len(sub.result.Failures) > 0 {
		r.tell(sub.result)
	}
	if sub.failed() {
		r.mark()
	}
	return !sub.failed()
}

func (r *recorder) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result.Failed
}

func (r *recorder) mark() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Failed = true
}

// Helper does nothing: there are no line numbers.
func (r *recorder) Helper() {}

// Context ends with the test.
func (r *recorder) Context() context.Context { return r.ctx }

// Cleanup runs at the end of the test, the last first.
func (r *recorder) Cleanup(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanup = append(r.cleanup, fn)
}

// maxLog bounds what one test keeps, in bytes.
const maxLog = 64 << 10

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.output.Write(p[:max(0, min(len(p), maxLog-r.output.Len()))])
	return len(p), nil
}

// Output is where logs go.
func (r *recorder) Output() io.Writer { return r }

// Log keeps a line.
func (r *recorder) Log(args ...any) { fmt.Fprintln(r, args...) }

// Logf keeps a line.
func (r *recorder) Logf(format string, args ...any) { r.Log(fmt.Sprintf(format, args...)) }

// Error fails the test.
func (r *recorder) Error(args ...any) { r.fail(fmt.Sprint(args...)) }

// Errorf fails the test.
func (r *recorder) Errorf(format string, args ...any) { r.fail(fmt.Sprintf(format, args...)) }

// Fatal fails the test and ends it.
func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

// Fatalf fails the test and ends it.
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) fail(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Failed = true
	r.result.Failures = append(r.result.Failures, what)
}
