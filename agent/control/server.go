package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

const (
	maxHeader     = 8 << 10          // bytes
	requestTime   = 10 * time.Second // to read a request
	answerTime    = 30 * time.Second // to make and write an answer
	idleTime      = time.Minute
	goodbyeTime   = 5 * time.Second // for requests under way when Serve ends
	maxAnswer     = 16 << 20        // bytes; some 30,000 VMs
	maxConnection = 64              // at once
)

// Handlers answer the requests. They are called from several goroutines.
type Handlers struct {
	Status func() (Status, error)
}

// Serve answers until ctx ends, then waits for the requests under way, closes
// the listener and returns nil. log hears what went wrong between.
func Serve(ctx context.Context, l *Listener, h Handlers, log *slog.Logger) (err error) {
	defer func() { err = errors.Join(err, l.Close()) }()
	server := &http.Server{
		Handler:           routes(h, log),
		ReadHeaderTimeout: requestTime,
		ReadTimeout:       requestTime,
		WriteTimeout:      answerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	refused := func(uid uint32) { log.Warn("refuse connection to the control socket", "uid", uid) }
	failed := make(chan error, 1)
	go func() {
		failed <- server.Serve(limit(guarded{l.socket, owners, refused}, maxConnection))
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serve control socket: %w", errors.Join(err, server.Close()))
	case <-ctx.Done():
	}
	return stop(ctx, server, failed)
}

// stop lets the requests under way end, within goodbyeTime.
func stop(ctx context.Context, server *http.Server, failed <-chan error) error {
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTime)
	defer cancel()
	err := server.Shutdown(bye)
	if err != nil {
		err = server.Close()
	}
	<-failed
	if err != nil {
		return fmt.Errorf("stop control socket: %w", err)
	}
	return nil
}

func routes(h Handlers, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		status, err := h.Status()
		answer(w, log, status, err)
	})
	return http.MaxBytesHandler(mux, 0) // no request has a body yet
}

// failure is the answer of a handler that failed.
type failure struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

func answer(w http.ResponseWriter, log *slog.Logger, v any, err error) {
	code := http.StatusOK
	if err != nil {
		code = http.StatusInternalServerError
		f := failure{Error: err.Error()}
		if h := (interface{ Hint() string })(nil); errors.As(err, &h) {
			f.Hint = h.Hint()
		}
		v = f
	}
	body, err := json.Marshal(v)
	if err != nil {
		log.Error("write answer on the control socket", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if _, err := w.Write(append(body, '\n')); err != nil {
		log.Debug("write answer on the control socket", "error", err) // the client went away
	}
}
