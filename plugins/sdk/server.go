package sdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce"
)

// server answers lull for one writer.
type server struct {
	proto.UnimplementedWriterServer
	writer Writer
	broker *goplugin.GRPCBroker

	turn chan struct{} // holds one element while a call is under way

	mu      sync.Mutex
	current context.CancelFunc // ends the call under way
	touched bool               // perhaps frozen: no good Thaw since the last Freeze
}

// newServer begins as touched: an earlier process may have died in the window, and
// Abort is how lull finds out.
func newServer(w Writer, broker *goplugin.GRPCBroker) *server {
	return &server{writer: w, broker: broker, turn: make(chan struct{}, 1), touched: true}
}

// exclusive waits for its turn and runs fn.
func (s *server) exclusive(ctx context.Context, fn func(context.Context) error) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("an earlier call is still running: %w", ctx.Err())
	}
	defer func() { <-s.turn }()
	// Its turn may come together with its end, and after an Abort: a Freeze that lull has
	// given up must not begin then.
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("given up before it began: %w", err)
	}
	return fn(ctx)
}

// abortable is exclusive, and Abort ends the context of fn.
func (s *server) abortable(ctx context.Context, fn func(context.Context) error) error {
	return s.exclusive(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s.setCurrent(cancel)
		defer s.setCurrent(nil)
		return fn(ctx)
	})
}

func (s *server) setCurrent(cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = cancel
}

func (s *server) endCurrent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		s.current()
	}
}

// Connect opens the way to the guest.
func (s *server) Connect(ctx context.Context, r *proto.ConnectRequest) (*proto.ConnectResponse, error) {
	return &proto.ConnectResponse{}, s.abortable(ctx, func(ctx context.Context) error {
		c, ok := s.writer.(Connector)
		if !ok {
			return nil
		}
		if r.GetGuestBrokerId() == 0 {
			return c.Connect(ctx, nil)
		}
		conn, err := s.broker.DialWithOptions(r.GetGuestBrokerId(), grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(proto.MaxMessage), grpc.MaxCallSendMsgSize(proto.MaxMessage)))
		if err != nil {
			return fmt.Errorf("reach guest service: %w", err)
		}
		return c.Connect(ctx, &guest{client: proto.NewGuestClient(conn)})
	})
}

// Identify may be called at any time, beside a call under way too.
func (s *server) Identify(ctx context.Context, _ *proto.IdentifyRequest) (*proto.IdentifyResponse, error) {
	id := Identity{Name: programName(), Version: "0", Tier: quiesce.BackEnd, Level: quiesce.LevelApplication}
	if w, ok := s.writer.(Identifier); ok {
		var err error
		if id, err = w.Identify(ctx); err != nil {
			return nil, err
		}
	}
	if err := id.Check(); err != nil {
		return nil, err
	}
	res := &proto.IdentifyResponse{
		Name: id.Name, Version: text(id.Version), Components: id.Components, BudgetMs: id.Budget.Milliseconds(),
		Tier:  proto.Tier(id.Tier) + proto.Tier_TIER_FRONT_END,
		Level: proto.Level_LEVEL_FILESYSTEM,
	}
	if id.Level == quiesce.LevelApplication {
		res.Level = proto.Level_LEVEL_APPLICATION
	}
	return res, nil
}

// Prepare is optional.
func (s *server) Prepare(ctx context.Context, r *proto.PrepareRequest) (*proto.PrepareResponse, error) {
	res := &proto.PrepareResponse{}
	return res, s.abortable(ctx, func(ctx context.Context) error {
		w, ok := s.writer.(Preparer)
		if !ok {
			return nil
		}
		found, err := w.Prepare(ctx, prepareRequest(r))
		res.Components = components(found)
		return err
	})
}

// Freeze always reaches the writer.
func (s *server) Freeze(ctx context.Context, r *proto.FreezeRequest) (*proto.FreezeResponse, error) {
	return &proto.FreezeResponse{}, s.abortable(ctx, func(ctx context.Context) error {
		s.touched = true
		return s.writer.Freeze(ctx, request(r.GetRequest()))
	})
}

// Thaw always reaches the writer.
func (s *server) Thaw(ctx context.Context, r *proto.ThawRequest) (*proto.ThawResponse, error) {
	res := &proto.ThawResponse{}
	return res, s.abortable(ctx, func(ctx context.Context) error {
		thawed, err := s.writer.Thaw(ctx, request(r.GetRequest()))
		if err == nil {
			s.touched, res.Held = false, thawed.Held
		}
		return err
	})
}

// PostSnapshot is optional.
func (s *server) PostSnapshot(ctx context.Context, r *proto.PostSnapshotRequest) (*proto.PostSnapshotResponse, error) {
	res := &proto.PostSnapshotResponse{}
	return res, s.abortable(ctx, func(ctx context.Context) error {
		w, ok := s.writer.(PostSnapshoter)
		if !ok {
			return nil
		}
		doc, err := w.PostSnapshot(ctx, request(r.GetRequest()))
		if err == nil && len(doc) > quiesce.MaxDocument {
			err = fmt.Errorf("document of %d bytes is larger than %d", len(doc), quiesce.MaxDocument)
		}
		if err == nil {
			res.Document = doc
		}
		return err
	})
}

// Complete is optional.
func (s *server) Complete(ctx context.Context, r *proto.CompleteRequest) (*proto.CompleteResponse, error) {
	return &proto.CompleteResponse{}, s.abortable(ctx, func(ctx context.Context) error {
		if w, ok := s.writer.(Completer); ok {
			return w.Complete(ctx, completeRequest(r))
		}
		return nil
	})
}

// Abort ends the call under way and undoes what was done. It does not end another
// Abort: one that was given up must not take a later one with it.
func (s *server) Abort(ctx context.Context, r *proto.AbortRequest) (*proto.AbortResponse, error) {
	s.endCurrent()
	return &proto.AbortResponse{}, s.exclusive(ctx, func(ctx context.Context) error {
		if w, ok := s.writer.(Aborter); ok {
			return w.Abort(ctx, request(r.GetRequest()))
		}
		if !s.touched {
			return nil
		}
		_, err := s.writer.Thaw(ctx, request(r.GetRequest()))
		s.touched = err != nil
		return err
	})
}

// PreRestore is optional.
func (s *server) PreRestore(ctx context.Context, r *proto.PreRestoreRequest) (*proto.PreRestoreResponse, error) {
	return &proto.PreRestoreResponse{}, s.abortable(ctx, func(ctx context.Context) error {
		if w, ok := s.writer.(PreRestorer); ok {
			return w.PreRestore(ctx, restoreRequest(r.GetRequest()))
		}
		return nil
	})
}

// PostRestore is optional.
func (s *server) PostRestore(ctx context.Context, r *proto.PostRestoreRequest) (*proto.PostRestoreResponse, error) {
	return &proto.PostRestoreResponse{}, s.abortable(ctx, func(ctx context.Context) error {
		if w, ok := s.writer.(PostRestorer); ok {
			return w.PostRestore(ctx, restoreRequest(r.GetRequest()))
		}
		return nil
	})
}

// programName makes a writer's name of the program's.
func programName() string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(filepath.Base(os.Args[0])))
	return name[:min(len(name), 64)]
}

// ErrDenied: the call was not granted to this plugin in lull's configuration.
var ErrDenied = errors.New("not granted to this plugin")
