package plugintest

import (
	"context"
	"log/slog"
	"time"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// DefaultLimit is how long one call may take.
const DefaultLimit = 30 * time.Second

// Guest is a guest that a test can look into.
type Guest interface {
	snapshot.Guest
	// IsFrozen says whether its file systems are frozen now.
	IsFrozen() bool
	// Calls are the names of the methods called so far.
	Calls() []string
}

// FakeGuest is a guest with two file systems, no files, and commands that echo
// their input.
func FakeGuest() Guest { return quiescetest.NewGuest() }

// Options say which plugin is tested, and over which guest.
type Options struct {
	Path string // of the program; absolute
	Args []string
	Env  []string // KEY=value, added to the clean environment
	User string   // that the plugin runs as; empty: this one
	// Grants of the plugin; nil: all. Without any, give an empty slice.
	Grants []plugins.Grant
	// Guest makes the guest of one test; nil: FakeGuest. What the
	// application is made of must outlive it: a test starts the plugin several
	// times over one guest.
	Guest func() Guest
	// Frozen says whether the application holds still; nil: see the package.
	Frozen func() bool
	// Limit of one call; 0: DefaultLimit.
	Limit time.Duration
	// Log hears what plugins say; nil: the test's log.
	Log *slog.Logger

	look look
}

// look is how the kit sees whether the application holds still.
type look int

const (
	lookNowhere look = iota // the plugin's word counts
	lookAtGuest             // its file systems
	lookByFrozen
)

func (o Options) withDefaults() Options {
	if o.Grants == nil {
		o.Grants = plugins.Grants()
	}
	if o.Guest == nil {
		o.Guest = FakeGuest
	}
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	return o
}

// name of the plugin in logs and failures.
const name = "plugin"

func (o Options) spec() plugins.Spec {
	return plugins.Spec{Name: name, Path: o.Path, Args: o.Args, Env: o.Env, User: o.User, Grants: o.Grants}
}

// start starts the plugin until the test ends.
func start(t quiescetest.TB, o Options, g Guest) *plugins.Plugin {
	t.Helper()
	return startShared(t, t, o, g)
}

// startShared starts the plugin for a test until the one above it ends.
func startShared(t, owner quiescetest.TB, o Options, g Guest) *plugins.Plugin {
	t.Helper()
	log := o.Log
	if log == nil {
		log = quiescetest.Logger(owner)
	}
	p, err := plugins.Start(owner.Context(), o.spec(), g, log)
	if err != nil {
		t.Fatal(err)
	}
	owner.Cleanup(func() {
		if err := p.Close(); err != nil {
			owner.Errorf("end the plugin: %v", err)
		}
	})
	return p
}

// within is a context for one call.
func (o Options) within(t quiescetest.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), o.Limit)
	t.Cleanup(cancel)
	return ctx
}

func request() quiesce.Request { return quiesce.Request{Run: "verify-1", VM: "lab/verify"} }

// looked finds out how to see a freeze of this plugin.
func (o Options) looked(t quiescetest.TB) Options {
	t.Helper()
	if o.Frozen != nil {
		o.look = lookByFrozen
		return o
	}
	r := newRig(t, o)
	r.freeze()
	if r.guest.IsFrozen() {
		o.look = lookAtGuest
	} else {
		t.Log("the freeze cannot be seen from outside: the plugin's word counts")
	}
	if err := r.plugin.Abort(o.within(t), request()); err != nil {
		t.Fatalf("abort: %v", err)
	}
	return o
}
