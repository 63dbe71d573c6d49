package sdk

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/snapshot"
)

// guest is a snapshot.Guest over the wire.
type guest struct{ client proto.GuestClient }

// guestError has the text of the other side and what to test for.
type guestError struct {
	text string
	is   error
}

func (e *guestError) Error() string { return e.text }
func (e *guestError) Unwrap() error { return e.is }

// fromStatus makes an error of the wire one of the contract again.
func fromStatus(ctx context.Context, err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	out := &guestError{text: st.Message(), is: err}
	switch st.Code() {
	case codes.PermissionDenied:
		out.is = ErrDenied
	case codes.DeadlineExceeded:
		out.is = context.DeadlineExceeded
	case codes.Canceled:
		out.is = context.Canceled
	}
	if ctx.Err() != nil {
		out.is = ctx.Err()
	}
	for _, d := range st.Details() {
		ge, ok := d.(*proto.GuestError)
		if !ok {
			continue
		}
		if known := kinds()[ge.GetKind()]; known != nil {
			out.is = known
		}
		if ge.GetHint() != "" {
			return snapshot.WithHint(out, ge.GetHint())
		}
	}
	return out
}

func kinds() map[proto.GuestErrorKind]error {
	return map[proto.GuestErrorKind]error{
		proto.GuestErrorKind_GUEST_ERROR_KIND_NO_GUEST:    snapshot.ErrNoGuest,
		proto.GuestErrorKind_GUEST_ERROR_KIND_SILENT:      snapshot.ErrGuestSilent,
		proto.GuestErrorKind_GUEST_ERROR_KIND_GONE:        snapshot.ErrGone,
		proto.GuestErrorKind_GUEST_ERROR_KIND_NOT_FOUND:   snapshot.ErrNoFile,
		proto.GuestErrorKind_GUEST_ERROR_KIND_UNSUPPORTED: snapshot.ErrUnsupported,
		proto.GuestErrorKind_GUEST_ERROR_KIND_NO_SPACE:    snapshot.ErrNoSpace,
	}
}

// Info describes the guest.
func (g *guest) Info(ctx context.Context) (snapshot.GuestInfo, error) {
	r, err := g.client.Info(ctx, &proto.InfoRequest{})
	return snapshot.GuestInfo{AgentVersion: r.GetAgentVersion(), OS: r.GetOs(), Hostname: r.GetHostname()}, fromStatus(ctx, err)
}

// Exec runs a program in the guest.
func (g *guest) Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	r, err := g.client.Exec(ctx, &proto.ExecRequest{
		Path: c.Path, Args: c.Args, Env: c.Env, Stdin: c.Stdin, TimeoutMs: c.Timeout.Milliseconds(),
	})
	return snapshot.ExecResult{
		ExitCode: int(r.GetExitCode()), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Truncated: r.GetTruncated(),
	}, fromStatus(ctx, err)
}

// ReadFile reads a file of the guest; limit is at most proto.MaxFile.
func (g *guest) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	if limit > proto.MaxFile {
		return nil, errors.New("read guest file: at most 3 MiB at a time")
	}
	r, err := g.client.ReadFile(ctx, &proto.ReadFileRequest{Path: path, Limit: limit})
	return r.GetData(), fromStatus(ctx, err)
}

// WriteFile replaces a file in the guest; data is at most proto.MaxFile.
func (g *guest) WriteFile(ctx context.Context, path string, data []byte) error {
	_, err := g.client.WriteFile(ctx, &proto.WriteFileRequest{Path: path, Data: data})
	return fromStatus(ctx, err)
}

// FreezeFilesystems freezes file systems, inside Freeze only.
func (g *guest) FreezeFilesystems(ctx context.Context, mountPoints []string) (int, error) {
	r, err := g.client.FreezeFilesystems(ctx, &proto.FreezeFilesystemsRequest{MountPoints: mountPoints})
	return int(r.GetCount()), fromStatus(ctx, err)
}

// ThawFilesystems thaws file systems.
func (g *guest) ThawFilesystems(ctx context.Context) (int, error) {
	r, err := g.client.ThawFilesystems(ctx, &proto.ThawFilesystemsRequest{})
	return int(r.GetCount()), fromStatus(ctx, err)
}

// FilesystemsFrozen asks the guest.
func (g *guest) FilesystemsFrozen(ctx context.Context) (bool, error) {
	r, err := g.client.FilesystemsFrozen(ctx, &proto.FilesystemsFrozenRequest{})
	return r.GetFrozen(), fromStatus(ctx, err)
}

// Close does nothing: the way to the guest ends with the plugin.
func (g *guest) Close() error { return nil }
