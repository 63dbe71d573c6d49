package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

const (
	// startLimit is how long a plugin may take until it answers.
	startLimit = 30 * time.Second
	// stopLimit is how long it may take to end by itself.
	stopLimit = 2 * time.Second
	// maxHeaders bounds the headers of an answer, failures among them, in bytes.
	maxHeaders = 64 << 10
)

// Plugin is a running writer plugin. It is a quiesce.Writer; calls fail with
// quiesce.ErrWriterGone once its process has ended.
type Plugin struct {
	spec    Spec
	log     *slog.Logger
	lines   *lineLog // what it says
	folder  *folder
	process *process
	options *goplugin.ClientConfig
	client  *goplugin.Client
	conn    *grpc.ClientConn
	writer  proto.WriterClient
	guest   *guestServer // nil: none
	server  *grpc.Server // of the guest service; nil: none
	serving sync.WaitGroup

	deafAborts atomic.Int32 // Aborts in a row without an answer
	deaf       atomic.Bool  // some call had no answer

	close    sync.Once
	closeErr error
}

// Start starts a plugin and waits until it answers, for 30 seconds at most. guest
// may be nil; the plugin does not close it. On an error nothing is left behind.
func Start(ctx context.Context, spec Spec, guest snapshot.Guest, log *slog.Logger) (*Plugin, error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("start plugin %s: %w", spec.Name, err)
	}
	folder, err := newFolder(spec.RuntimeDir)
	if err != nil {
		return nil, fmt.Errorf("start plugin %s: %w", spec.Name, err)
	}
	log = log.With("plugin", spec.Name)
	lines := newLineLog(log)
	p := &Plugin{spec: spec, log: log, lines: lines, folder: folder, process: newProcess(spec, folder.path, lines)}
	// spec.check has looked it up before.
	if p.process.credential, err = spec.credential(); err == nil && p.process.credential != nil {
		err = folder.letThrough()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start plugin %s: %w", spec.Name, err), folder.remove())
	}
	p.options = p.config()
	p.client = goplugin.NewClient(p.options)
	if guest != nil {
		p.guest = &guestServer{guest: guest, plugin: spec.Name, grants: spec.Grants}
	}
	if err := p.start(ctx); err != nil {
		closeErr := p.Close() // only then all that it said is there
		err = fmt.Errorf("start plugin %s: %w%s", spec.Name, err, p.process.said.last())
		return nil, errors.Join(err, closeErr)
	}
	return p, nil
}

func (p *Plugin) config() *goplugin.ClientConfig {
	return &goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: proto.Version, MagicCookieKey: proto.CookieKey, MagicCookieValue: proto.CookieValue,
		},
		Plugins:          goplugin.PluginSet{proto.PluginName: &dispenser{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		// Only with a runner of our own does go-plugin keep to the folder, and
		// then it checks no checksum: process.Start does.
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: p.folder.path, Group: p.process.group()},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			p.process.command(cmd.Env)
			return p.process, nil
		},
		StartTimeout: startLimit,
		Logger:       &hostLog{log: p.log},
		SyncStdout:   &floodWriter{&lineWriter{to: p.lines, level: slog.LevelInfo}, p.process.flood},
		SyncStderr:   &floodWriter{&lineWriter{to: p.lines, level: slog.LevelInfo}, p.process.flood},
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(proto.MaxMessage), grpc.MaxCallSendMsgSize(proto.MaxMessage)),
			grpc.WithMaxHeaderListSize(maxHeaders),
			grpc.WithStreamInterceptor(p.process.flood.watchBroker),
			// A connection that go-plugin drops without closing does not last.
			grpc.WithIdleTimeout(10 * time.Second),
		},
	}
}

// start connects to the plugin on a goroutine, since go-plugin knows no context:
// when time is over, killing the process ends whatever go-plugin waits for.
func (p *Plugin) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.connect(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		p.process.kill(fmt.Errorf("killed: no answer to its start: %w", context.Cause(ctx)))
		err = <-done
	}
	var failure *quiesce.Failure
	if err == nil || errors.As(err, &failure) {
		return err // the plugin's own word
	}
	// Why the process ended says more than how go-plugin saw it.
	if p.awaitEnd(gonePause) && !errors.Is(p.process.died(), errStopped) {
		return p.process.died()
	}
	return err
}

// awaitEnd says whether the process has ended, after waiting a little for it.
func (p *Plugin) awaitEnd(limit time.Duration) bool {
	if p.process.ID() == "" {
		return false
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.process.ended:
		return true
	case <-timer.C:
		return false
	}
}

// connect makes the handshake, opens the guest service and says Connect.
func (p *Plugin) connect(ctx context.Context) error {
	protocol, err := p.client.Client()
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	raw, err := protocol.Dispense(proto.PluginName)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	ends, ok := raw.(*dispensed)
	if !ok {
		return errors.New("connect: not a writer plugin")
	}
	p.conn, p.writer = ends.conn, proto.NewWriterClient(ends.conn)
	id, err := p.serveGuest(ends.broker)
	if err != nil {
		return fmt.Errorf("serve guest: %w", err)
	}
	_, err = p.writer.Connect(ctx, &proto.ConnectRequest{GuestBrokerId: id})
	return p.failure(ctx, optional(err))
}

// serveGuest starts the guest service; 0 is the id of none.
func (p *Plugin) serveGuest(broker *goplugin.GRPCBroker) (uint32, error) {
	if p.guest == nil {
		return 0, nil
	}
	id := broker.NextId()
	listener, err := broker.Accept(id)
	if err != nil {
		return 0, err
	}
	p.server = grpc.NewServer(
		// go-plugin has put the certificates of this start there, ours and the
		// plugin's; its own AcceptAndServe uses the same.
		grpc.Creds(credentials.NewTLS(p.options.TLSConfig)),
		grpc.MaxRecvMsgSize(proto.MaxMessage), grpc.MaxSendMsgSize(proto.MaxMessage),
		grpc.MaxConcurrentStreams(guestCalls), grpc.MaxHeaderListSize(maxHeaders),
		grpc.UnaryInterceptor(recoverer(p.log)), grpc.WaitForHandlers(true),
	)
	proto.RegisterGuestServer(p.server, p.guest)
	p.serving.Go(func() {
		if err := p.server.Serve(newFewConns(listener)); err != nil {
			p.log.Warn("guest service ended", "error", err)
		}
	})
	return id, nil
}

// Pid is the id of the plugin's process, for logs and tests.
func (p *Plugin) Pid() int {
	return p.process.cmd.Process.Pid
}

// Wire is the connection under the calls, for plugintest: it sends what no lull of
// today says. It ends with Close.
func (p *Plugin) Wire() grpc.ClientConnInterface { return p.conn }

// Close ends the plugin: it is asked to, and killed when it does not. On return
// its process, its sockets and its folder are gone. Safe to call again.
func (p *Plugin) Close() error {
	p.close.Do(func() {
		p.stop()
		if p.server != nil {
			p.server.Stop()
		}
		p.serving.Wait()
		p.closeErr = p.folder.remove()
	})
	return p.closeErr
}

// stop lets go-plugin end the process. Its way has no deadline of its own, and is
// no use with a plugin that hangs.
func (p *Plugin) stop() {
	if p.deaf.Load() {
		p.process.kill(errors.New("killed: it had left a call without an answer"))
	}
	killer := time.AfterFunc(stopLimit, func() { p.process.kill(errors.New("killed: it did not end when asked to")) })
	defer killer.Stop()
	p.client.Kill()
	p.process.kill(errors.New("killed at the end"))
	if p.process.ID() != "" {
		<-p.process.ended
	}
}

// dispenser hands the two ends of the connection over to Start.
type dispenser struct {
	goplugin.NetRPCUnsupportedPlugin
}

type dispensed struct {
	broker *goplugin.GRPCBroker
	conn   *grpc.ClientConn
}

// GRPCServer is the other side's.
func (dispenser) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error {
	return errors.New("the host is no plugin")
}

// GRPCClient is called by Dispense.
func (dispenser) GRPCClient(_ context.Context, broker *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return &dispensed{broker, conn}, nil
}
