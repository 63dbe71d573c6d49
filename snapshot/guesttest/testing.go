package guesttest

import (
	"context"
	"os"
	"testing"
	"time"
)

// bootLimit is how long a guest may take on a machine that is busy with others.
const bootLimit = 3 * time.Minute

// New boots a guest for a test and waits until it is ready. It ends with the
// test, and what it said is shown when the test failed.
func New(t testing.TB, o Options) *Guest {
	t.Helper()
	g := NewStopped(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	if err := g.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return g
}

// NewStopped is New, but the guest is not started yet.
func NewStopped(t testing.TB, o Options) *Guest {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	cache, err := CacheDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	image, err := Build(ctx, cache)
	if err != nil {
		t.Fatal(err)
	}
	// t.TempDir has the test's name in it, which is too long for sockets.
	dir, err := os.MkdirTemp("", "lull-guest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g, err := Create(ctx, image, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Kill()
		if t.Failed() {
			t.Log(g.Logs())
		}
	})
	return g
}

// DatabaseOptions are those of a guest in which PostgreSQL and MariaDB run: both
// are started at the end of the boot. Guests share the images below their disks.
func DatabaseOptions(t testing.TB) Options {
	t.Helper()
	d := BuiltDatabases(t)
	return Options{
		Name: "db", System: d.System, Memory: 512 << 20, Pause: -1,
		Disks: []Disk{{Backing: d.Disks[0]}, {Backing: d.Disks[1]}},
	}
}

// BuiltDatabases is BuildDatabases for a test.
func BuiltDatabases(t testing.TB) Databases {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	cache, err := CacheDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d, err := BuildDatabases(ctx, cache)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
