package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"
)

// clientTime bounds a whole question, whatever its context allows.
const clientTime = 30 * time.Second

// Client asks the agent behind a socket. Safe for concurrent use.
type Client struct {
	path string
	http *http.Client
}

// Dial finds the agent. ErrNotRunning: nobody serves the socket. ErrForbidden:
// it is another user's.
func Dial(path string) (*Client, error) {
	c := &Client{path: path, http: &http.Client{Timeout: clientTime, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		MaxIdleConns:           1,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}}}
	conn, err := net.DialTimeout("unix", path, clientTime)
	if err != nil {
		return nil, c.explain("reach agent", err)
	}
	if err := conn.Close(); err != nil {
		return nil, c.explain("reach agent", err)
	}
	return c, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the agent's status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	if err := c.get(ctx, "/v1/status", &s); err != nil {
		return Status{}, c.explain("ask agent for its status", err)
	}
	return s, nil
}

func (c *Client) get(ctx context.Context, path string, v any) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://lull"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	if len(body) > maxAnswer {
		return fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp.StatusCode, body)
	}
	return json.Unmarshal(body, v)
}

// refusal is the agent's own error.
func refusal(code int, body []byte) error {
	var f failure
	if json.Unmarshal(body, &f) != nil || f.Error == "" {
		return &hinted{fmt.Errorf("it answers %d %s", code, http.StatusText(code)), "use the lull of the same version as the agent"}
	}
	if f.Hint == "" {
		return errors.New(f.Error)
	}
	return &hinted{errors.New(f.Error), f.Hint}
}

// explain names the socket, and the cause where it is a known one.
func (c *Client) explain(what string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTSOCK):
		err = &hinted{ErrNotRunning, "start it with lull agent, or systemctl start lull"}
	case errors.Is(err, fs.ErrPermission):
		err = &hinted{ErrForbidden, "run as root, or as the user that the agent runs as"}
	}
	return fmt.Errorf("%s on %s: %w", what, c.path, err)
}
