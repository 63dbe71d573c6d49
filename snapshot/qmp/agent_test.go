package qmp

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
)

// answerSync answers a sync as the agent does, after whatever came before.
func (s *session) answerSync(c heard) {
	var args struct{ ID json.Number }
	if err := json.Unmarshal(c.Arguments, &args); err != nil || c.Execute != "guest-sync-delimited" || !c.Delimited {
		s.t.Errorf("the peer heard %+v (%v), want a delimited sync", c, err)
	}
	s.say("\xff{\"return\": %s}", args.ID)
}

// agentPeer answers every command with what answer says.
func agentPeer(t *testing.T, answer func(heard) string) *peer {
	t.Helper()
	return listen(t, func(s *session) {
		for c := s.hear(); c.Execute != ""; c = s.hear() {
			s.answerSync(c)
			if c = s.hear(); c.Execute == "" {
				return
			}
			s.say("%s", answer(c))
		}
	})
}

func agent(t *testing.T, p *peer) *Agent {
	t.Helper()
	a := NewAgent(p.path, AgentOptions{})
	t.Cleanup(func() { a.Close() })
	return a
}

func TestFreeze(t *testing.T) {
	frozen := 0
	p := agentPeer(t, func(c heard) string {
		switch c.Execute {
		case "guest-fsfreeze-freeze":
			frozen = 2
			return `{"return": 2}`
		case "guest-fsfreeze-freeze-list":
			if string(c.Arguments) != `{"mountpoints":["/data"]}` {
				t.Errorf("arguments %s", c.Arguments)
			}
			frozen = 1
			return `{"return": 1}`
		case "guest-fsfreeze-thaw":
			n := frozen
			frozen = 0
			return `{"return": ` + string(rune('0'+n)) + `}`
		case "guest-fsfreeze-status":
			if frozen > 0 {
				return `{"return": "frozen"}`
			}
			return `{"return": "thawed"}`
		}
		return `{"error": {"class": "CommandNotFound", "desc": "unknown"}}`
	})
	a := agent(t, p)
	for _, c := range []struct {
		points []string
		want   int
	}{{nil, 2}, {[]string{"/data"}, 1}} {
		if n, err := a.FreezeFilesystems(patience(t), c.points); n != c.want || err != nil {
			t.Errorf("freeze %v: %d, %v", c.points, n, err)
		}
		if is, err := a.FilesystemsFrozen(patience(t)); !is || err != nil {
			t.Errorf("frozen: %v, %v", is, err)
		}
		if n, err := a.ThawFilesystems(patience(t)); n != c.want || err != nil {
			t.Errorf("thaw: %d, %v", n, err)
		}
		if is, err := a.FilesystemsFrozen(patience(t)); is || err != nil {
			t.Errorf("frozen after thaw: %v, %v", is, err)
		}
	}
}

func TestExec(t *testing.T) {
	polls := 0
	p := agentPeer(t, func(c heard) string {
		if c.Execute == "guest-exec" {
			want := `{"path":"/bin/cat","arg":["-"],"env":["A=b"],"input-data":"aGk=","capture-output":true}`
			if string(c.Arguments) != want {
				t.Errorf("arguments %s", c.Arguments)
			}
			return `{"return": {"pid": 7}}`
		}
		if polls++; polls < 3 {
			return `{"return": {"exited": false}}`
		}
		out := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("y"), snapshot.MaxGuestOutput+1))
		return `{"return": {"exited": true, "exitcode": 3, "out-data": "` + out + `", "err-data": "aGk="}}`
	})
	got, err := agent(t, p).Exec(patience(t), snapshot.Command{Path: "/bin/cat", Args: []string{"-"}, Env: []string{"A=b"}, Stdin: []byte("hi")})
	if err != nil || got.ExitCode != 3 || len(got.Stdout) != snapshot.MaxGuestOutput || string(got.Stderr) != "hi" || !got.Truncated {
		t.Errorf("exit %d, %d bytes, %q, truncated %v, %v", got.ExitCode, len(got.Stdout), got.Stderr, got.Truncated, err)
	}
}

func TestExecTimeout(t *testing.T) {
	p := agentPeer(t, func(c heard) string {
		if c.Execute == "guest-exec" {
			return `{"return": {"pid": 7}}`
		}
		return `{"return": {"exited": false}}`
	})
	_, err := agent(t, p).Exec(patience(t), snapshot.Command{Path: "/bin/true", Timeout: 30 * time.Millisecond})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestKilledBySignal(t *testing.T) {
	if got := (execStatus{Exited: true, Signal: 9}).result(); got.ExitCode != 137 {
		t.Errorf("exit code %d", got.ExitCode)
	}
}

// files plays the file commands of an agent.
func files(t *testing.T, content *[]byte, open *int) *peer {
	t.Helper()
	at := 0
	return agentPeer(t, func(c heard) string {
		var args struct {
			Count int
			Buf   []byte `json:"buf-b64"`
			Mode  string
		}
		if err := json.Unmarshal(c.Arguments, &args); err != nil {
			t.Error(err)
		}
		var reply any = map[string]int{}
		switch c.Execute {
		case "guest-file-open":
			*open++
			if at = 0; args.Mode == "w" {
				*content = nil
			}
			reply = 1000
		case "guest-file-close":
			*open--
		case "guest-file-read":
			n := min(args.Count, len(*content)-at)
			reply = map[string]any{"count": n, "buf-b64": (*content)[at : at+n], "eof": at+n == len(*content)}
			at += n
		case "guest-file-write":
			n := min(len(args.Buf), 100_000) // an agent may write less
			*content = append(*content, args.Buf[:n]...)
			reply = map[string]int{"count": n}
		}
		b, err := json.Marshal(map[string]any{"return": reply})
		if err != nil {
			t.Error(err)
		}
		return string(b)
	})
}

func TestGuestFiles(t *testing.T) {
	var content []byte
	open := 0
	a := agent(t, files(t, &content, &open))
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := a.WriteFile(patience(t), "/tmp/x", data); err != nil || !bytes.Equal(content, data) {
		t.Fatalf("write: %v, %d bytes arrived", err, len(content))
	}
	if got, err := a.ReadFile(patience(t), "/tmp/x", int64(len(data))); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
	if _, err := a.ReadFile(patience(t), "/tmp/x", int64(len(data)-1)); err == nil {
		t.Error("a file beyond the limit is read")
	}
	if open != 0 {
		t.Errorf("%d files left open in the guest", open)
	}
}

// A file or program that is not there shows, whatever the road to the agent.
func TestNoFile(t *testing.T) {
	var desc string
	a := agent(t, agentPeer(t, func(heard) string { return `{"error": {"class": "GenericError", "desc": "` + desc + `"}}` }))
	for said, want := range map[string]bool{
		"failed to open file '/x' (mode: 'r'): No such file or directory":                                                    true,
		"Guest agent command failed, error was 'Failed to execute child process \u201c/x\u201d (No such file or directory)'": true,
		"failed to open file '/x' (mode: 'r'): Permission denied":                                                            false,
	} {
		desc = said
		_, read := a.ReadFile(patience(t), "/x", 1)
		_, run := a.Exec(patience(t), snapshot.Command{Path: "/x"})
		_, thaw := a.ThawFilesystems(patience(t))
		if errors.Is(read, snapshot.ErrNoFile) != want || errors.Is(run, snapshot.ErrNoFile) != want || errors.Is(thaw, snapshot.ErrNoFile) {
			t.Errorf("%s: %v, %v, %v", said, read, run, thaw)
		}
	}
}

func TestInfo(t *testing.T) {
	p := agentPeer(t, func(c heard) string {
		switch c.Execute {
		case "guest-info":
			return `{"return": {"version": "7.2.22", "supported_commands": []}}`
		case "guest-get-host-name":
			return `{"return": {"host-name": "` + strings.Repeat("h", 1000) + `"}}`
		}
		return `{"error": {"class": "CommandNotFound", "desc": "Command has been disabled: the agent is in frozen state"}}`
	})
	got, err := agent(t, p).Info(patience(t))
	want := snapshot.GuestInfo{AgentVersion: "7.2.22", Hostname: strings.Repeat("h", 256)}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
}

// An answer that comes after its caller gave up, an answer to another client's
// sync, and half a message must not be taken for answers.
func TestStaleAnswers(t *testing.T) {
	sent, gaveUp := make(chan struct{}), make(chan struct{})
	p := listen(t, func(s *session) {
		s.answerSync(s.hear())
		s.hear() // the freeze, whose hook is slow
		close(sent)
		<-gaveUp
		sync := s.hear()
		s.say(`{"return": 2}`)
		s.say("\xff{\"return\": 424242}")
		_, _ = s.conn.Write([]byte(`{"return": 1`))
		s.answerSync(sync)
		if c := s.hear(); c.Execute != "guest-fsfreeze-thaw" {
			t.Errorf("heard %+v", c)
		}
		s.say(`{"return": 5}`)
		s.hear()
	})
	a := agent(t, p)
	_, err := a.FreezeFilesystems(expiring{t.Context(), sent}, nil)
	if !errors.Is(err, snapshot.ErrGuestSilent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("freeze: %v", err)
	}
	close(gaveUp)
	if n, err := a.ThawFilesystems(patience(t)); n != 5 || err != nil {
		t.Errorf("thaw: %d, %v", n, err)
	}
}

// expiring is a context whose deadline passes when done is closed, however busy the
// machine is.
type expiring struct {
	context.Context
	done <-chan struct{}
}

func (e expiring) Done() <-chan struct{} { return e.done }

func (e expiring) Err() error {
	select {
	case <-e.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func TestSilence(t *testing.T) {
	block := make(chan struct{})
	p := listen(t, func(*session) { <-block })
	defer close(block)
	a := NewAgent(p.path, AgentOptions{Sync: 30 * time.Millisecond})
	defer a.Close()
	_, err := a.Info(patience(t))
	var hint interface{ Hint() string }
	if !errors.Is(err, snapshot.ErrGuestSilent) || !errors.As(err, &hint) {
		t.Errorf("got %v", err)
	}
}

func TestAgentGone(t *testing.T) {
	calls := 0
	p := listen(t, func(s *session) {
		if calls++; calls == 1 {
			s.hear()
			return
		}
		s.answerSync(s.hear())
		s.hear()
		s.say(`{"return": "thawed"}`)
		s.hear()
	})
	a := agent(t, p)
	if _, err := a.FilesystemsFrozen(patience(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("first: %v", err)
	}
	if _, err := a.FilesystemsFrozen(patience(t)); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	b := NewAgent(p.path+".missing", AgentOptions{})
	defer b.Close()
	if _, err := b.Info(patience(t)); !errors.Is(err, snapshot.ErrUnreachable) {
		t.Errorf("no socket: %v", err)
	}
}

func TestCloseEndsCalls(t *testing.T) {
	heard := make(chan struct{})
	block := make(chan struct{})
	p := listen(t, func(s *session) { s.hear(); close(heard); <-block })
	defer close(block)
	a := agent(t, p)
	ended := make(chan error, 1)
	go func() { _, err := a.Info(patience(t)); ended <- err }()
	<-heard
	a.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("the call: %v", err)
	}
	if _, err := a.Info(patience(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("a call after Close: %v", err)
	}
}

func TestHostileAgent(t *testing.T) {
	for name, answer := range map[string]string{
		"no JSON":    "hello",
		"no answer":  "{}",
		"wrong type": `{"return": {"version": 5}}`,
		"too long":   `{"return": {"version": "` + strings.Repeat("x", 5000) + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := agentPeer(t, func(heard) string { return answer })
			a := NewAgent(p.path, AgentOptions{MaxLine: 4096})
			defer a.Close()
			if _, err := a.Info(patience(t)); !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v", err)
			}
		})
	}
}
