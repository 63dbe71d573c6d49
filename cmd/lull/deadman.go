package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// deadManName is the hidden command of the process that outlives a run: it thaws
// the guest when the run's process dies with the guest frozen, or resumes it when that
// dies while it stands still.
const deadManName = "dead-man"

// recipe is how the dead-man reaches the guest: it reads no configuration, which may
// be broken or another by then.
type recipe struct {
	Name       string `json:"name"`
	QMP        string `json:"qmp"`
	GuestAgent string `json:"guest_agent,omitempty"`
	// Libvirt is the URI of the daemon whose domain it is, in place of the two.
	Libvirt string `json:"libvirt,omitempty"`
	// Writers hold applications still, besides file systems.
	Writers []plugins.Spec `json:"writers,omitempty"`
	// Of the plan: the run, what tells whether the VM stands still, and that it is the same one.
	Host     string             `json:"host"`
	UUID     string             `json:"uuid,omitempty"` // which domain of that name
	Run      string             `json:"run,omitempty"`
	Instance string             `json:"instance,omitempty"`
	Saved    snapshot.SavedPlan `json:"saved,omitzero"`
	// Trees is where trees of checkpoints are kept, of a VM that an operation on its
	// checkpoints may have stopped. Then nothing of a run is of interest.
	Trees string `json:"trees,omitempty"`
	// Wipe: what is replaced then is wiped by whoever comes next.
	Wipe bool `json:"wipe,omitempty"`
}

// deadMan makes the guard of a VM of the configuration, made of this very program;
// nil for one that has no guest to be frozen. group has the writers.
func (in *invocation) deadMan(cfg *config.Config, group config.Group, name string) func(snapshot.Plan) quiesce.Guard {
	way, ok := wayTo(cfg, name)
	if !ok {
		return nil
	}
	var writers []plugins.Spec
	for _, w := range in.writerSpecs(cfg, group) {
		if w.err == nil && w.Name != config.FilesystemWriter {
			writers = append(writers, w.Spec)
		}
	}
	return func(p snapshot.Plan) quiesce.Guard {
		p.Saved.Path = absolute(p.Saved.Path)
		r := way
		r.Writers, r.Host, r.UUID, r.Run, r.Instance, r.Saved = writers, p.Host, p.Hardware.UUID, p.Run, p.Instance, p.Saved
		return in.standBy(name, r)
	}
}

// recoveryDeadMan makes the guards of VMs that are recovered.
func (in *invocation) recoveryDeadMan(cfg *config.Config) func(vm string, p snapshot.Plan) quiesce.Guard {
	return func(vm string, p snapshot.Plan) quiesce.Guard {
		if cfg == nil {
			return nil
		}
		if guard := in.deadMan(cfg, anyGroup(cfg, vm), vm); guard != nil {
			return guard(p)
		}
		return nil
	}
}

// standBy is a dead-man that will follow a recipe.
func (in *invocation) standBy(name string, r recipe) *quiesce.DeadMan {
	line, err := json.Marshal(r)
	if err != nil {
		line = nil // strings always can be encoded; the dead-man refuses an empty line
	}
	return quiesce.NewDeadMan(func() *exec.Cmd {
		cmd := exec.Command(in.Program, "--quiet", deadManName, name)
		if f, ok := in.Stderr.(*os.File); ok {
			cmd.Stderr = f
		}
		return cmd
	}, line)
}

// checkpointGuard is a dead-man for a VM that an operation on its checkpoints stops.
func (in *invocation) checkpointGuard(cfg *config.Config, host, trees string) func(context.Context, string) (func(context.Context, bool) error, error) {
	return func(ctx context.Context, vm string) (func(context.Context, bool) error, error) {
		name := host + "/" + vm
		way, ok := wayTo(cfg, name)
		if !ok {
			return nil, missingf("VM %s is not in %s", name, cfg.Path)
		}
		way.GuestAgent, way.Trees, way.Wipe = "", absolute(trees), cfg.WipesDeltas(name)
		d := in.standBy(name, way)
		ctx, cancel := context.WithTimeout(ctx, armTimeout)
		defer cancel()
		if err := d.Arm(ctx); err != nil {
			return nil, err
		}
		return d.Disarm, nil
	}
}

// armTimeout bounds how long a dead-man may take to stand by.
const armTimeout = 30 * time.Second

// wayTo is how a VM that can run is reached, by the name that the journal has for it.
func wayTo(cfg *config.Config, name string) (recipe, bool) {
	if cfg == nil {
		return recipe{}, false
	}
	host, vm, _ := strings.Cut(name, "/")
	for _, h := range cfg.Hosts {
		if h.Name == host && h.Libvirt != nil {
			return recipe{Name: vm, Libvirt: h.Libvirt.URI}, true
		}
		for _, v := range h.QEMU {
			if h.Name == host && v.Name == vm {
				return recipe{Name: vm, QMP: absolute(v.QMP), GuestAgent: absolute(v.GuestAgent)}, true
			}
		}
	}
	return recipe{}, false
}

// absolute is for a process that works in another folder.
func absolute(path string) string {
	if path == "" {
		return ""
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return path // it says itself what it cannot find
	}
	return abs
}

func (in *invocation) deadManCommand() *cobra.Command {
	return &cobra.Command{
		Use:    deadManName + " VM",
		Short:  "Thaw a guest when lull dies while it is frozen; lull starts it by itself",
		Hidden: true,
		Args:   argCount(1, 1, "VM"), // only for who looks at the list of processes
		RunE: in.run(func(cmd *cobra.Command, _ []string) error {
			return quiesce.StandBy(cmd.Context(), in.Stdin, in.Stdout, in.thawer)
		}),
	}
}

// thawer understands a recipe.
func (in *invocation) thawer(line []byte) (quiesce.Thaw, error) {
	var r recipe
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, fmt.Errorf("understand recipe: %w", err)
	}
	if r.Name == "" || r.GuestAgent == "" && r.Libvirt == "" && r.Saved.Path == "" && r.Trees == "" {
		return nil, errors.New("understand recipe: it names no guest")
	}
	if r.Trees != "" {
		host := in.treeHost(r)
		return func(ctx context.Context) error { return host.ReleaseCheckpoint(ctx, r.Name) }, nil
	}
	host := in.savingHost(r)
	plan := snapshot.Plan{Host: r.Host, VM: r.Name, Run: r.Run, Instance: r.Instance, Saved: r.Saved, Hardware: snapshot.Hardware{UUID: r.UUID}}
	return func(ctx context.Context) error {
		// First, for a VM that stands still has no guest that could answer.
		err := host.Resume(ctx, plan)
		if r.GuestAgent != "" || r.Libvirt != "" {
			err = errors.Join(err, in.thawGuest(ctx, host, r))
		}
		return err
	}, nil
}

// thawGuest thaws until it is done or ctx ends: who the way to the guest leads through may be
// down with lull, such as libvirt's daemon, and come back.
func (in *invocation) thawGuest(ctx context.Context, host snapshot.Host, r recipe) error {
	return quiesce.Insist(ctx, 100*time.Millisecond, 5*time.Second, func() (bool, error) {
		err := in.thawGuestOnce(ctx, host, r)
		return !errors.Is(err, snapshot.ErrNotFound), err // a VM that is not there any more
	})
}

// thawGuestOnce thaws the file systems, and then has the writers let go of the applications.
func (in *invocation) thawGuestOnce(ctx context.Context, host snapshot.Host, r recipe) error {
	guest, err := host.Guest(ctx, r.Name)
	if errors.Is(err, snapshot.ErrNoGuest) && r.Libvirt != "" {
		return nil // libvirt says itself that it has no channel, or is off
	}
	if errors.Is(err, snapshot.ErrNoGuest) {
		if _, gone := host.Instance(ctx, r.Name); gone != nil {
			return nil // nothing runs that could be frozen
		}
	}
	if err != nil {
		return fmt.Errorf("reach guest: %w", err)
	}
	defer guest.Close()
	if err := quiesce.EnsureThawed(ctx, guest, in.logger(slog.LevelWarn)); err != nil {
		return err
	}
	var specs []wanted
	for _, spec := range r.Writers {
		specs = append(specs, wanted{Spec: spec})
	}
	writers, stop := in.startWriters(ctx, specs, guest)
	return errors.Join(quiesce.AbortAll(ctx, quiesce.Request{Run: r.Run, VM: r.Name}, writers, in.logger(slog.LevelWarn)), stop())
}
