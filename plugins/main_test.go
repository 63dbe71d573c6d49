package plugins_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// The test binary starts itself again as the plugin, or as a host, when modeEnv
// says so.
const modeEnv = "LULL_TEST_MODE"

// seenEnv names a file that the plugin makes once it does what its mode says.
const seenEnv = "LULL_TEST_SEEN"

func tellSeen() {
	if path := os.Getenv(seenEnv); path != "" {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err) // the test misses the file
		}
	}
}

func TestMain(m *testing.M) {
	mode := os.Getenv(modeEnv)
	switch verb, _, _ := strings.Cut(mode, " "); verb {
	case "":
		os.Exit(m.Run())
	case "host":
		exit(runHost())
	case "silent":
		tellSeen()
		select {} // no handshake
	case "garbage":
		fmt.Println("Welcome to this plugin! " + strings.Repeat("x", 300))
		select {}
	case "unending-line":
		fmt.Print(strings.Repeat("x", 1<<20))
		select {}
	case "no-tls":
		fmt.Println("1|1|unix|" + os.Getenv("PLUGIN_UNIX_SOCKET_DIR") + "/s|grpc|")
		select {}
	case "tcp":
		fmt.Println("1|1|tcp|127.0.0.1:1|grpc|" + strings.Repeat("A", 100))
		select {}
	case "nobody-listens":
		fmt.Println("1|1|unix|" + os.Getenv("PLUGIN_UNIX_SOCKET_DIR") + "/s|grpc|" + strings.Repeat("A", 100))
		select {}
	case "exit":
		exit(errors.New("no configuration"))
	case "two-methods":
		exit(sdk.Serve(&twoMethods{}))
	case "nothing":
		exit(sdk.Serve(&nothing{number: strings.TrimPrefix(mode, "nothing ")}))
	case "talks":
		exit(sdk.Serve(&talker{}))
	case "reports":
		exit(sdk.Serve(&reporter{}))
	default:
		exit(sdk.Serve(&odd{mode: mode}))
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runHost starts a plugin, prints the id of its process and waits to be killed.
func runHost() error {
	p, err := plugins.Start(context.Background(), spec("well"), nil, discard())
	if err != nil {
		return err
	}
	fmt.Println(p.Pid())
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, p.Close())
}

// twoMethods is the smallest writer.
type twoMethods struct{ frozen bool }

func (w *twoMethods) Freeze(context.Context, sdk.Request) error {
	w.frozen = true
	return nil
}

func (w *twoMethods) Thaw(context.Context, sdk.Request) (sdk.ThawResult, error) {
	held := w.frozen
	w.frozen = false
	return sdk.ThawResult{Held: held}, nil
}

// nothing is one of several writers that do nothing.
type nothing struct {
	twoMethods
	number string
}

func (w *nothing) Identify(context.Context) (sdk.Identity, error) {
	n, err := strconv.Atoi(w.number)
	return sdk.Identity{Name: "writer-" + w.number, Tier: quiesce.Tier(n % 3), Level: quiesce.LevelApplication}, err
}

// talker says something in every way that there is.
type talker struct{ twoMethods }

func (w *talker) Prepare(ctx context.Context, _ sdk.PrepareRequest) ([]sdk.Component, error) {
	sdk.Log(ctx).Warn("a long transaction", "since", "05:12")
	sdk.Progress(ctx, "checkpoint", 3, 7)
	fmt.Fprintln(os.Stderr, "in plain words")
	return nil, nil
}

// reporter says how far it is until it is told to stop.
type reporter struct{ twoMethods }

func (w *reporter) Prepare(ctx context.Context, _ sdk.PrepareRequest) ([]sdk.Component, error) {
	sdk.Progress(ctx, "checkpoint", 3, 7)
	<-ctx.Done()
	return nil, ctx.Err()
}

func (w *reporter) PreRestore(ctx context.Context, r sdk.RestoreRequest) error {
	sdk.Progress(ctx, "logs of "+r.Point, 1, 0)
	<-ctx.Done()
	return ctx.Err()
}

// odd freezes the guest, and does what its mode, "verb call", says in one call.
type odd struct {
	mode  string
	guest sdk.Guest
}

func (w *odd) act(call quiescetest.Call) error {
	verb, what, _ := strings.Cut(w.mode, " ")
	if what != string(call) {
		return nil
	}
	tellSeen()
	switch verb {
	case "hang":
		select {} // deaf to its context
	case "panic":
		panic("odd writer")
	case "die":
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "stop":
		if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
			return err
		}
		select {} // another thread may have got the signal
	case "veto":
		return &sdk.Failure{Class: quiesce.Vetoed, Component: "db1", Err: errors.New("not now"), Next: "come back later"}
	case "large":
		return errors.New(strings.Repeat("large \xff", 1<<20))
	case "stdout":
		line := []byte("garbage\x00\xff" + strings.Repeat("y", 100<<10) + "\n")
		_, err := syscall.Write(1, line)
		fmt.Println("and in words")
		return err
	case "flood":
		line := []byte(strings.Repeat("z", 4<<10) + "\n")
		for {
			if _, err := syscall.Write(2, line); err != nil {
				return err
			}
		}
	case "child":
		c := exec.Command("sleep", "3600")
		c.Stdout, c.Stderr = os.NewFile(1, "stdout"), os.NewFile(2, "stderr")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			return err
		}
		return fmt.Errorf("child %d", c.Process.Pid)
	case "odd-json":
		return sayOddJSON()
	case "environment":
		env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "PLUGIN_CLIENT_CERT=") })
		return errors.New(strings.Join(env, "\n"))
	case "reach":
		return w.reach()
	case "late":
		return w.late()
	case "crowd":
		return w.crowd()
	}
	return nil
}

// sayOddJSON prints what looks like a line of a log, and is none.
func sayOddJSON() error {
	for _, line := range []string{
		`{"@message":5,"@level":"info"}`, `{"@message":"x","@level":[]}`, `{"@timestamp":{},"@level":"info","@message":"oddly timed"}`,
		`{"@level":"info","@message":"x","@progress":{"done":{},"total":-1e999}}`, `{"@level":"info","a":` + strings.Repeat("[", 30<<10) + `}`,
		`{"@level":"info","@message":"` + strings.Repeat("long ", 1<<15) + `"}`, `{"@level":"info","@message":"the last one"}`,
	} {
		if _, err := syscall.Write(2, []byte(line+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// reach tries everything in the guest and says what was refused.
func (w *odd) reach() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, info := w.guest.Info(ctx)
	_, run := w.guest.Exec(ctx, snapshot.Command{Path: "/bin/true", Stdin: []byte("x")})
	_, read := w.guest.ReadFile(ctx, "/etc/shadow", 100)
	write := w.guest.WriteFile(ctx, "/etc/shadow", nil)
	_, freeze := w.guest.FreezeFilesystems(ctx, nil)
	_, thaw := w.guest.ThawFilesystems(ctx)
	_, frozen := w.guest.FilesystemsFrozen(ctx)
	var out []string
	for _, c := range []struct {
		name string
		err  error
	}{{"info", info}, {"exec", run}, {"read-file", read}, {"write-file", write}, {"freeze", freeze}, {"thaw", thaw}, {"frozen", frozen}} {
		switch {
		case errors.Is(c.err, sdk.ErrDenied):
			out = append(out, c.name+": denied")
		case errors.Is(c.err, snapshot.ErrNoFile):
			out = append(out, c.name+": not found")
		case c.err != nil:
			out = append(out, c.name+": "+c.err.Error())
		default:
			out = append(out, c.name+": done")
		}
	}
	return errors.New(strings.Join(out, "\n"))
}

// crowd has very many calls into the guest under way at once.
func (w *odd) crowd() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	errs := make([]error, 100)
	for i := range errs {
		all.Go(func() {
			_, errs[i] = w.guest.Exec(ctx, snapshot.Command{Path: "/bin/true", Stdin: make([]byte, 1<<20)})
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// late freezes the guest once more, outside of Freeze.
func (w *odd) late() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := w.guest.FreezeFilesystems(ctx, nil)
	return err
}

func (w *odd) Connect(_ context.Context, g sdk.Guest) error {
	w.guest = g
	return w.act("connect")
}

func (w *odd) Identify(context.Context) (sdk.Identity, error) {
	return sdk.Identity{Name: "odd", Version: "1", Tier: quiesce.System, Level: quiesce.LevelFilesystem, Components: []string{"db1"}, Budget: time.Second}, w.act(quiescetest.Identify)
}

func (w *odd) Prepare(context.Context, sdk.PrepareRequest) ([]sdk.Component, error) {
	return nil, w.act(quiescetest.Prepare)
}

func (w *odd) Freeze(ctx context.Context, _ sdk.Request) error {
	if w.guest != nil {
		if _, err := w.guest.FreezeFilesystems(ctx, nil); err != nil {
			return err
		}
	}
	return w.act(quiescetest.Freeze)
}

func (w *odd) Thaw(ctx context.Context, _ sdk.Request) (sdk.ThawResult, error) {
	if err := w.act(quiescetest.Thaw); err != nil {
		return sdk.ThawResult{}, err
	}
	n, err := w.guest.ThawFilesystems(ctx)
	return sdk.ThawResult{Held: n > 0}, err
}

func (w *odd) PostSnapshot(context.Context, sdk.Request) ([]byte, error) {
	if w.mode == "document post-snapshot" {
		return make([]byte, quiesce.MaxDocument+1), nil
	}
	return make([]byte, quiesce.MaxDocument), w.act(quiescetest.PostSnapshot)
}

func (w *odd) Complete(context.Context, sdk.CompleteRequest) error {
	return w.act(quiescetest.Complete)
}

func (w *odd) Abort(ctx context.Context, _ sdk.Request) error {
	if err := w.act(quiescetest.Abort); err != nil {
		return err
	}
	if w.guest == nil {
		return nil
	}
	_, err := w.guest.ThawFilesystems(ctx)
	return err
}

func (w *odd) PreRestore(context.Context, sdk.RestoreRequest) error {
	return w.act(quiescetest.PreRestore)
}

func (w *odd) PostRestore(context.Context, sdk.RestoreRequest) error {
	return w.act(quiescetest.PostRestore)
}
