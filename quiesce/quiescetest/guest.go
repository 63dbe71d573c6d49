package quiescetest

import (
	"context"
	"sync"

	"github.com/lull-backup/lull/snapshot"
)

// Guest is a fake snapshot.Guest with Filesystems file systems. Set the fields
// before the first call; safe for concurrent use.
type Guest struct {
	// Filesystems is how many file systems freeze; NewGuest sets 2.
	Filesystems int
	// Fault, where set, is asked before every call, by the method's name; an
	// error is the answer, and the call has no effect. It may block.
	Fault func(ctx context.Context, method string) error

	mu     sync.Mutex
	frozen bool
	points []string
	calls  []string
}

// NewGuest is a guest with two file systems.
func NewGuest() *Guest { return &Guest{Filesystems: 2} }

// IsFrozen is the truth.
func (g *Guest) IsFrozen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.frozen
}

// Frozen are the mount points that the last freeze named; none: all.
func (g *Guest) Frozen() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.points
}

// Calls are the names of the methods called so far.
func (g *Guest) Calls() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.calls...)
}

func (g *Guest) set(frozen bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.frozen
	g.frozen = frozen
	return was
}

func (g *Guest) enter(ctx context.Context, method string) error {
	g.mu.Lock()
	g.calls = append(g.calls, method)
	g.mu.Unlock()
	if g.Fault != nil {
		if err := g.Fault(ctx, method); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Info answers with a fixed description.
func (g *Guest) Info(ctx context.Context) (snapshot.GuestInfo, error) {
	return snapshot.GuestInfo{AgentVersion: "7.2", OS: "debian", Hostname: "fake"}, g.enter(ctx, "Info")
}

// Exec echoes its standard input.
func (g *Guest) Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	return snapshot.ExecResult{Stdout: c.Stdin}, g.enter(ctx, "Exec")
}

// ReadFile finds nothing.
func (g *Guest) ReadFile(ctx context.Context, _ string, _ int64) ([]byte, error) {
	if err := g.enter(ctx, "ReadFile"); err != nil {
		return nil, err
	}
	return nil, snapshot.ErrNoFile
}

// WriteFile forgets what it is given.
func (g *Guest) WriteFile(ctx context.Context, _ string, _ []byte) error {
	return g.enter(ctx, "WriteFile")
}

// FreezeFilesystems freezes as many as are named, or all.
func (g *Guest) FreezeFilesystems(ctx context.Context, points []string) (int, error) {
	if err := g.enter(ctx, "FreezeFilesystems"); err != nil {
		return 0, err
	}
	if g.Filesystems > 0 {
		g.set(true)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.points = points
	if len(points) > 0 {
		return min(g.Filesystems, len(points)), nil
	}
	return g.Filesystems, nil
}

// ThawFilesystems thaws all.
func (g *Guest) ThawFilesystems(ctx context.Context) (int, error) {
	if err := g.enter(ctx, "ThawFilesystems"); err != nil {
		return 0, err
	}
	if g.set(false) {
		return g.Filesystems, nil
	}
	return 0, nil
}

// FilesystemsFrozen tells the truth.
func (g *Guest) FilesystemsFrozen(ctx context.Context) (bool, error) {
	if err := g.enter(ctx, "FilesystemsFrozen"); err != nil {
		return false, err
	}
	return g.IsFrozen(), nil
}

// Close does nothing.
func (g *Guest) Close() error { return nil }
