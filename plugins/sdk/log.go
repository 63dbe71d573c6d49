package sdk

import (
	"context"
	"io"
	"log/slog"
	"path"
	"strings"

	"google.golang.org/grpc"
)

// Log is the logger of the call that ctx belongs to. What it is told is in lull's log,
// with the plugin, the run and the VM, within limits: 100 lines at once, then 10 a second,
// of 4 KiB at most. Outside of a call that Serve answers it drops everything.
func Log(ctx context.Context) *slog.Logger {
	if log, ok := ctx.Value(logKey{}).(*slog.Logger); ok {
		return log
	}
	return slog.New(slog.DiscardHandler)
}

// Progress tells how far a call is that takes long, such as Prepare: done of total, in
// whatever the words say; a total of 0 is one that is not known. lull shows it as long as
// the call lasts, with the run and the writer, and names the last in the report of a call
// that ran out of time. Tell as often as you like: about five a second are passed on, and
// are lines of Log, too. Words longer than 100 bytes are cut, and numbers below 0 are no progress.
func Progress(ctx context.Context, what string, done, total int64) {
	Log(ctx).Info(what, slog.Group(progressKey, "done", done, "total", total))
}

// progressKey names the object that lull takes for progress in a line.
const progressKey = "@progress"

type logKey struct{}

// newLog writes lines as go-plugin reads them from a plugin's standard error.
func newLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: hclogAttr}))
}

// hclogAttr gives an attribute the name and the form that hclog has for it.
func hclogAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		return slog.String("@timestamp", a.Value.Time().Format("2006-01-02T15:04:05.000000Z07:00"))
	case slog.LevelKey:
		return slog.String("@level", strings.ToLower(a.Value.String()))
	case slog.MessageKey:
		return slog.String("@message", a.Value.String())
	}
	return a
}

// logged puts the logger of a call into its context.
func logged(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return handler(context.WithValue(ctx, logKey{}, log.With("call", path.Base(info.FullMethod))), req)
	}
}
