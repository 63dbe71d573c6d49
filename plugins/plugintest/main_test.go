package plugintest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/quiesce"
)

// The test binary starts itself again as the plugin, good or bad in one thing, when
// modeEnv says so. The application is the file of appEnv: while it is there, it
// holds still.
const (
	modeEnv = "LULL_TEST_MODE"
	appEnv  = "LULL_TEST_APP"
)

func TestMain(m *testing.M) {
	mode := os.Getenv(modeEnv)
	if mode == "" {
		os.Exit(m.Run())
	}
	if err := serve(mode); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(mode string) error {
	a := &app{path: os.Getenv(appEnv), mode: mode}
	switch mode {
	case "started by hand":
		if os.Getenv("LULL_PLUGIN") == "" {
			select {}
		}
	case "hello":
		fmt.Println("hello")
		select {}
	case "newer lull":
		if os.Getenv("PLUGIN_PROTOCOL_VERSIONS") == "98,99" {
			select {}
		}
	case "noisy":
		for range 1000 {
			fmt.Fprintln(os.Stderr, "here I am")
		}
	case "filesystems":
		return sdk.Serve(&filesystems{})
	case "no thaw":
		return sdk.Serve(&filesystems{lies: true})
	case "forgets":
		return sdk.Serve(&forgetful{app: a})
	case "never looks":
		return sdk.Serve(&blind{app: a})
	}
	return sdk.Serve(a)
}

// app is a writer of the application that is a file.
type app struct {
	path string
	mode string

	thawed bool
}

func (a *app) Freeze(ctx context.Context, r sdk.Request) error {
	switch a.mode {
	case "slow":
		select {
		case <-time.After(120 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	case "absent":
		return &sdk.Failure{Class: quiesce.NotPresent, Err: errors.New("no such program")}
	}
	return os.WriteFile(a.path, nil, 0o600)
}

func (a *app) Thaw(context.Context, sdk.Request) (sdk.ThawResult, error) {
	err := os.Remove(a.path)
	if errors.Is(err, os.ErrNotExist) {
		return sdk.ThawResult{Held: a.mode == "always held"}, nil
	}
	a.thawed = true
	return sdk.ThawResult{Held: true}, err
}

func (a *app) Identify(context.Context) (sdk.Identity, error) {
	id := sdk.Identity{Name: "app", Version: "1", Tier: quiesce.BackEnd, Level: quiesce.LevelApplication}
	if a.mode == "slow" {
		id.Budget = 100 * time.Millisecond
	}
	return id, nil
}

func (a *app) Complete(context.Context, sdk.CompleteRequest) error {
	if a.mode == "dies in complete" && !a.thawed {
		os.Exit(7)
	}
	return nil
}

func (a *app) PostRestore(_ context.Context, r sdk.RestoreRequest) error {
	if a.mode == "trusts its document" && strings.HasPrefix(string(r.Document), "\xff") {
		os.Exit(7)
	}
	return nil
}

// forgetful aborts only what this process froze.
type forgetful struct {
	*app
	froze bool
}

func (f *forgetful) Freeze(ctx context.Context, r sdk.Request) error {
	f.froze = true
	return f.app.Freeze(ctx, r)
}

func (f *forgetful) Abort(ctx context.Context, r sdk.Request) error {
	if !f.froze {
		return nil
	}
	f.froze = false
	_, err := f.Thaw(ctx, r)
	return err
}

// blind needs a program of the guest, and finds out in the window whether it is there.
type blind struct {
	*app
	guest sdk.Guest
}

func (b *blind) Connect(_ context.Context, g sdk.Guest) error {
	b.guest = g
	return nil
}

func (b *blind) Freeze(ctx context.Context, r sdk.Request) error {
	if _, err := b.guest.Exec(ctx, sdk.Command{Path: "/bin/hold"}); err != nil {
		return err
	}
	return b.app.Freeze(ctx, r)
}

func (b *blind) Thaw(ctx context.Context, r sdk.Request) (sdk.ThawResult, error) {
	if _, err := b.guest.Exec(ctx, sdk.Command{Path: "/bin/hold"}); err != nil {
		return sdk.ThawResult{}, err
	}
	return b.app.Thaw(ctx, r)
}

// filesystems freezes the guest.
type filesystems struct {
	guest sdk.Guest
	lies  bool
}

func (f *filesystems) Connect(_ context.Context, g sdk.Guest) error {
	f.guest = g
	return nil
}

func (f *filesystems) Freeze(ctx context.Context, _ sdk.Request) error {
	_, err := f.guest.FreezeFilesystems(ctx, nil)
	return err
}

func (f *filesystems) Thaw(ctx context.Context, _ sdk.Request) (sdk.ThawResult, error) {
	n, err := f.guest.ThawFilesystems(ctx)
	return sdk.ThawResult{Held: n > 0 || f.lies}, err
}
