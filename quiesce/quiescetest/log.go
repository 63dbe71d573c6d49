package quiescetest

import "log/slog"

// Logger writes to the test's log.
func Logger(t TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
