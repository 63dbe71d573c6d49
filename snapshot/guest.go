package snapshot

import (
	"context"
	"time"
)

// Guest reaches into a running guest. Methods are safe for concurrent use but
// are answered one at a time. Every call ends with its context at the latest;
// the guest may still carry out a call that was given up on. Once its VM went away,
// every call fails with ErrGone.
type Guest interface {
	// Info describes the guest; it proves that the agent inside answers.
	Info(ctx context.Context) (GuestInfo, error)

	// Exec runs a program to its end and returns its output, each stream cut
	// at MaxGuestOutput bytes. One that was given up runs on. Errors: ErrNoFile.
	Exec(ctx context.Context, c Command) (ExecResult, error)

	// ReadFile reads a file of at most limit bytes. Errors: ErrNoFile.
	ReadFile(ctx context.Context, path string, limit int64) ([]byte, error)

	// WriteFile replaces a file in the guest.
	WriteFile(ctx context.Context, path string, data []byte) error

	// FreezeFilesystems blocks writes to the given mount points, or to all
	// when none is named, and returns how many file systems it froze. 0 means
	// that nothing holds still. After an error or a timeout the guest may yet
	// freeze: the caller follows with ThawFilesystems until FilesystemsFrozen
	// says false.
	FreezeFilesystems(ctx context.Context, mountPoints []string) (int, error)

	// ThawFilesystems lets writes go on and returns how many file systems were
	// frozen until now. Safe to call at any time.
	ThawFilesystems(ctx context.Context) (int, error)

	// FilesystemsFrozen asks the guest itself.
	FilesystemsFrozen(ctx context.Context) (bool, error)

	Close() error
}

// MaxGuestOutput bounds each output stream of a guest command, in bytes.
const MaxGuestOutput = 1 << 20

// GuestInfo is what a guest says of itself. Hostile: for display only.
type GuestInfo struct {
	AgentVersion string
	OS           string // id such as "debian" or "mswindows"; empty when unknown
	Hostname     string
}

// Command is a program to run in the guest.
type Command struct {
	Path    string
	Args    []string
	Env     []string // KEY=value
	Stdin   []byte
	Timeout time.Duration // 0: until the context ends
}

// ExecResult is how a guest command ended.
type ExecResult struct {
	ExitCode       int
	Stdout, Stderr []byte
	Truncated      bool // a stream was longer than MaxGuestOutput
}
