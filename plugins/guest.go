package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/snapshot"
)

// guestServer serves one guest to one plugin, as far as the plugin's grants go.
type guestServer struct {
	proto.UnimplementedGuestServer
	guest  snapshot.Guest
	plugin string
	grants []Grant
	gate   freezeGate
}

// freezeGate is open while a Freeze of the plugin is under way. A freeze of the
// guest that is running when it closes is cancelled.
type freezeGate struct {
	mu      sync.Mutex
	open    int
	next    int
	running map[int]context.CancelFunc
}

// enter opens the gate; the result closes it.
func (g *freezeGate) enter() (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.open--; g.open > 0 {
			return
		}
		for _, cancel := range g.running {
			cancel()
		}
	}
}

// pass derives a context that ends when the gate closes; ok is false where it is
// closed.
func (g *freezeGate) pass(ctx context.Context) (_ context.Context, done func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == 0 {
		return nil, nil, false
	}
	ctx, cancel := context.WithCancel(ctx)
	if g.running == nil {
		g.running = map[int]context.CancelFunc{}
	}
	id := g.next
	g.next++
	g.running[id] = cancel
	return ctx, func() {
		cancel()
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.running, id)
	}, true
}

func (s *guestServer) need(g Grant) error {
	if slices.Contains(s.grants, g) {
		return nil
	}
	return guestStatus(&notGranted{grant: g, plugin: s.plugin})
}

// notGranted is a call without its grant.
type notGranted struct {
	grant  Grant
	plugin string
}

func (e *notGranted) Error() string {
	return fmt.Sprintf("%q is not granted to plugin %s", string(e.grant), e.plugin)
}

// Hint is for the administrator.
func (e *notGranted) Hint() string {
	return "where the plugin is to have that, name it in its grants in the configuration"
}

// Info needs GrantInfo.
func (s *guestServer) Info(ctx context.Context, _ *proto.InfoRequest) (*proto.InfoResponse, error) {
	if err := s.need(GrantInfo); err != nil {
		return nil, err
	}
	i, err := s.guest.Info(ctx)
	if err != nil {
		return nil, guestStatus(err)
	}
	return &proto.InfoResponse{AgentVersion: wireText(i.AgentVersion), Os: wireText(i.OS), Hostname: wireText(i.Hostname)}, nil
}

// Exec needs GrantExec.
func (s *guestServer) Exec(ctx context.Context, r *proto.ExecRequest) (*proto.ExecResponse, error) {
	if err := s.need(GrantExec); err != nil {
		return nil, err
	}
	if len(r.GetStdin()) > proto.MaxFile {
		return nil, status.Error(codes.InvalidArgument, "standard input is longer than 3 MiB")
	}
	timeout := min(max(r.GetTimeoutMs(), 0), math.MaxInt64/int64(time.Millisecond))
	res, err := s.guest.Exec(ctx, snapshot.Command{
		Path: r.GetPath(), Args: r.GetArgs(), Env: r.GetEnv(), Stdin: r.GetStdin(),
		Timeout: time.Duration(timeout) * time.Millisecond,
	})
	if err != nil {
		return nil, guestStatus(err)
	}
	return &proto.ExecResponse{
		ExitCode: int32(res.ExitCode), Truncated: res.Truncated,
		Stdout: res.Stdout[:min(len(res.Stdout), snapshot.MaxGuestOutput)],
		Stderr: res.Stderr[:min(len(res.Stderr), snapshot.MaxGuestOutput)],
	}, nil
}

// ReadFile needs GrantReadFile.
func (s *guestServer) ReadFile(ctx context.Context, r *proto.ReadFileRequest) (*proto.ReadFileResponse, error) {
	if err := s.need(GrantReadFile); err != nil {
		return nil, err
	}
	if r.GetLimit() < 0 || r.GetLimit() > proto.MaxFile {
		return nil, status.Error(codes.InvalidArgument, "limit must be from 0 to 3 MiB")
	}
	data, err := s.guest.ReadFile(ctx, r.GetPath(), r.GetLimit())
	if err != nil {
		return nil, guestStatus(err)
	}
	return &proto.ReadFileResponse{Data: data}, nil
}

// WriteFile needs GrantWriteFile.
func (s *guestServer) WriteFile(ctx context.Context, r *proto.WriteFileRequest) (*proto.WriteFileResponse, error) {
	if err := s.need(GrantWriteFile); err != nil {
		return nil, err
	}
	if len(r.GetData()) > proto.MaxFile {
		return nil, status.Error(codes.InvalidArgument, "data is longer than 3 MiB")
	}
	return &proto.WriteFileResponse{}, guestStatus(s.guest.WriteFile(ctx, r.GetPath(), r.GetData()))
}

// FreezeFilesystems needs GrantFreeze and a Freeze under way.
func (s *guestServer) FreezeFilesystems(ctx context.Context, r *proto.FreezeFilesystemsRequest) (*proto.FreezeFilesystemsResponse, error) {
	if err := s.need(GrantFreeze); err != nil {
		return nil, err
	}
	ctx, done, ok := s.gate.pass(ctx)
	if !ok {
		return nil, status.Errorf(codes.FailedPrecondition, "plugin %s freezes the guest although no Freeze is under way", s.plugin)
	}
	defer done()
	n, err := s.guest.FreezeFilesystems(ctx, r.GetMountPoints())
	return &proto.FreezeFilesystemsResponse{Count: int32(n)}, guestStatus(err)
}

// ThawFilesystems needs GrantFreeze.
func (s *guestServer) ThawFilesystems(ctx context.Context, _ *proto.ThawFilesystemsRequest) (*proto.ThawFilesystemsResponse, error) {
	if err := s.need(GrantFreeze); err != nil {
		return nil, err
	}
	n, err := s.guest.ThawFilesystems(ctx)
	return &proto.ThawFilesystemsResponse{Count: int32(n)}, guestStatus(err)
}

// FilesystemsFrozen needs GrantFreeze.
func (s *guestServer) FilesystemsFrozen(ctx context.Context, _ *proto.FilesystemsFrozenRequest) (*proto.FilesystemsFrozenResponse, error) {
	if err := s.need(GrantFreeze); err != nil {
		return nil, err
	}
	frozen, err := s.guest.FilesystemsFrozen(ctx)
	return &proto.FilesystemsFrozenResponse{Frozen: frozen}, guestStatus(err)
}

// guestStatus puts a guest's error on the wire.
func guestStatus(err error) error {
	if err == nil {
		return nil
	}
	code := codes.Unknown
	var denied *notGranted
	switch {
	case errors.As(err, &denied):
		code = codes.PermissionDenied
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	detail := &proto.GuestError{Kind: guestKind(err)}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		detail.Hint = wireText(h.Hint())
	}
	st := status.New(code, wireText(err.Error()))
	if full, derr := st.WithDetails(detail); derr == nil {
		st = full
	}
	return st.Err()
}

func guestKind(err error) proto.GuestErrorKind {
	switch {
	case errors.Is(err, snapshot.ErrNoGuest):
		return proto.GuestErrorKind_GUEST_ERROR_KIND_NO_GUEST
	case errors.Is(err, snapshot.ErrGuestSilent):
		return proto.GuestErrorKind_GUEST_ERROR_KIND_SILENT
	case errors.Is(err, snapshot.ErrGone):
		return proto.GuestErrorKind_GUEST_ERROR_KIND_GONE
	case errors.Is(err, snapshot.ErrNoFile):
		return proto.GuestErrorKind_GUEST_ERROR_KIND_NOT_FOUND
	case errors.Is(err, snapshot.ErrUnsupported):
		return proto.GuestErrorKind_GUEST_ERROR_KIND_UNSUPPORTED
	case errors.Is(err, snapshot.ErrNoSpace):
		return proto.GuestErrorKind_GUEST_ERROR_KIND_NO_SPACE
	}
	return proto.GuestErrorKind_GUEST_ERROR_KIND_UNSPECIFIED
}

// wireText bounds what goes on the wire and makes it valid there.
func wireText(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), proto.MaxText)], "?")
}

// recoverer keeps a panic below the guest service from ending the host.
func recoverer(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("guest service panicked", "call", info.FullMethod, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				err = status.Error(codes.Internal, "guest service panicked")
			}
		}()
		return handler(ctx, req)
	}
}
