package plugins

import (
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hostLog is an hclog.Logger over slog for what go-plugin says of itself. That goes to
// the debug level: errors that matter are returned.
type hostLog struct {
	log  *slog.Logger
	name string
}

var _ hclog.Logger = (*hostLog)(nil)

// Log passes a message on.
func (h *hostLog) Log(_ hclog.Level, msg string, args ...any) {
	h.log.Debug("go-plugin: "+msg, args...)
}

// Trace is dropped: it is one line a message.
func (h *hostLog) Trace(string, ...any) {}

// Debug is Log.
func (h *hostLog) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }

// Info is Log.
func (h *hostLog) Info(msg string, args ...any) { h.Log(hclog.Info, msg, args...) }

// Warn is Log.
func (h *hostLog) Warn(msg string, args ...any) { h.Log(hclog.Warn, msg, args...) }

// Error is Log.
func (h *hostLog) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

// IsTrace is false.
func (h *hostLog) IsTrace() bool { return false }

// IsDebug is true: slog decides.
func (h *hostLog) IsDebug() bool { return true }

// IsInfo is true.
func (h *hostLog) IsInfo() bool { return true }

// IsWarn is true.
func (h *hostLog) IsWarn() bool { return true }

// IsError is true.
func (h *hostLog) IsError() bool { return true }

// ImpliedArgs are none.
func (h *hostLog) ImpliedArgs() []any { return nil }

// With adds nothing: go-plugin does not use it.
func (h *hostLog) With(...any) hclog.Logger { return h }

// Name is the last given.
func (h *hostLog) Name() string { return h.name }

// Named changes the name alone.
func (h *hostLog) Named(name string) hclog.Logger { return &hostLog{log: h.log, name: name} }

// ResetNamed is Named.
func (h *hostLog) ResetNamed(name string) hclog.Logger { return h.Named(name) }

// SetLevel does nothing.
func (h *hostLog) SetLevel(hclog.Level) {}

// GetLevel is debug.
func (h *hostLog) GetLevel() hclog.Level { return hclog.Debug }

// StandardLogger writes lines at the debug level.
func (h *hostLog) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(h.log.Handler(), slog.LevelDebug)
}

// StandardWriter writes lines at the debug level.
func (h *hostLog) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return h.StandardLogger(o).Writer()
}
