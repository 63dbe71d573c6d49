package sdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/snapshot"
)

// ErrNotStartedByLull: a plugin was started by hand.
var ErrNotStartedByLull = errors.New("this is a plugin of lull, which starts it by itself")

// Serve answers lull until it ends the plugin. It takes over standard output and
// standard error of the process: call it once, last in main.
func Serve(w Writer) error {
	if os.Getenv(proto.CookieKey) != proto.CookieValue {
		return snapshot.WithHint(ErrNotStartedByLull, "name the program in lull's configuration")
	}
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGTERM)
	defer signal.Stop(ignored)

	calls := newLog(os.Stderr)
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn, JSONFormat: true})
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: proto.Version, MagicCookieKey: proto.CookieKey, MagicCookieValue: proto.CookieValue,
		},
		Plugins: goplugin.PluginSet{proto.PluginName: &servedPlugin{writer: w}},
		Logger:  log,
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts,
				grpc.MaxRecvMsgSize(proto.MaxMessage), grpc.MaxSendMsgSize(proto.MaxMessage),
				grpc.ChainUnaryInterceptor(keepStderr(os.Stderr), logged(calls), answer))...)
		},
	})
	return nil
}

// keepStderr has a writer print to the real standard error from its first call on. go-plugin
// has put a pipe in its place, out of which the last words of a process may be lost.
func keepStderr(real *os.File) grpc.UnaryServerInterceptor {
	var once sync.Once
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		once.Do(func() { os.Stderr = real })
		return handler(ctx, req)
	}
}

// servedPlugin registers the writer with go-plugin's server.
type servedPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	writer Writer
}

// GRPCServer is called once.
func (p *servedPlugin) GRPCServer(broker *goplugin.GRPCBroker, s *grpc.Server) error {
	proto.RegisterWriterServer(s, newServer(p.writer, broker))
	return nil
}

// GRPCClient is the other side's.
func (p *servedPlugin) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("the SDK is no client")
}

// answer puts a call's error on the wire, and makes one of a panic.
func answer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
	defer func() {
		if p := recover(); p != nil {
			Log(ctx).Error("writer panicked", "panic", fmt.Sprint(p), "stack", panicked(debug.Stack()))
			err = toStatus(ctx, fmt.Errorf("panicked: %v", p))
		}
	}()
	res, err = handler(ctx, req)
	return res, toStatus(ctx, err)
}

// maxStack bounds a stack in the log, in lines: two a call.
const maxStack = 20

// panicked is a stack from where the panic was on.
func panicked(stack []byte) string {
	_, below, found := strings.Cut(string(stack), "\npanic(")
	if !found {
		below = string(stack)
	}
	lines := strings.Split(below, "\n")
	if found && len(lines) > 2 {
		lines = lines[2:] // panic itself, and where that is
	}
	return strings.Join(lines[:min(len(lines), maxStack)], "\n")
}
