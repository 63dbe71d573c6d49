package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/plugins/writers/filesystem"
	"github.com/lull-backup/lull/plugins/writers/mariadb"
	"github.com/lull-backup/lull/plugins/writers/postgresql"
	"github.com/lull-backup/lull/plugins/writers/script"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/image/merge"
	"github.com/lull-backup/lull/snapshot/libvirt"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/space"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/dir"
	"github.com/lull-backup/lull/transport/blob/lock"
	"github.com/lull-backup/lull/transport/blob/retry"
	"github.com/lull-backup/lull/transport/blob/s3"
	"github.com/lull-backup/lull/transport/repo"
)

// This file alone names the implementations behind the contracts.

// openStore opens the store of a repository, with patience around it. With make,
// a folder that is not there is made.
func (in *invocation) openStore(ctx context.Context, r config.Repository, make bool) (blob.Store, io.Closer, error) {
	if r.S3 != nil {
		return in.openBucket(ctx, *r.S3, r.ObjectLock)
	}
	if make {
		if err := dir.Make(r.Dir); err != nil {
			return nil, nil, err
		}
	}
	store, err := dir.Open(r.Dir)
	if err != nil {
		return nil, nil, err
	}
	return in.patient(store), store, nil
}

func (in *invocation) openBucket(ctx context.Context, c config.S3, locks *config.ObjectLock) (blob.Store, io.Closer, error) {
	store, err := s3.Open(ctx, s3.Config{
		Endpoint: c.Endpoint, Bucket: c.Bucket, Prefix: c.Prefix, Region: c.Region,
		CAFile: c.CAFile, CredentialsFile: c.CredentialsFile,
	})
	if err != nil {
		return nil, nil, err
	}
	if locks == nil {
		return in.patient(store), store, nil
	}
	return lock.New(in.patient(store), lock.Policy{
		Mode: blob.LockMode(locks.Mode), Period: time.Duration(locks.Days) * day,
	}), store, nil
}

// patient tries again what fails for a moment.
func (in *invocation) patient(store blob.Store) *retry.Store {
	return retry.New(store, retry.Options{Total: in.Patience, Log: in.logger(slog.LevelWarn)})
}

// openHosts makes the hosts of a configuration, by name. It reaches for no VM.
func (in *invocation) openHosts(cfg *config.Config) map[string]snapshot.Host {
	hosts, ledger := map[string]snapshot.Host{}, &space.Ledger{} // they may share file systems
	for _, h := range cfg.Hosts {
		switch {
		case h.Libvirt != nil:
			hosts[h.Name] = in.libvirtHost(cfg, h, ledger)
		case len(h.QEMU) > 0:
			hosts[h.Name] = in.qemuHost(cfg, h, ledger)
		default:
			hosts[h.Name] = imageHost(h.Images)
		}
	}
	return hosts
}

// libvirtHost serves the domains of a daemon.
func (in *invocation) libvirtHost(cfg *config.Config, h config.Host, ledger *space.Ledger) *libvirt.Host {
	address, err := rpc.ParseAddress(h.Libvirt.URI)
	if err != nil { // the configuration has refused what is no such URI
		in.fail(fmt.Errorf("libvirt: %w", err))
	}
	opt := qemu.Options{Log: in.logger(slog.LevelWarn), Space: in.limits(h), Ledger: ledger, Observe: in.checkpointStep}
	if h.Name != "" { // else nothing but one of its domains is of interest
		opt.CheckpointDir = filepath.Join(cfg.Agent.StateDir, "checkpoints", h.Name)
		opt.CheckpointStop = cfg.Checkpoints.MaxStop
	}
	host := libvirt.NewHost(address, libvirt.Options{
		QEMU:   opt,
		TPMDir: in.TPMDir, DeltaDir: h.Deltas.Dir,
		Wipe: func(vm string) bool { return cfg.WipesDeltas(h.Name + "/" + vm) },
	})
	in.opened = append(in.opened, host)
	return host
}

// libvirtNeeds says which libvirt and QEMU are behind a host of libvirt, and what lull lacks
// there.
func libvirtNeeds(ctx context.Context, host snapshot.Host) (versions string, lacks []error, err error) {
	h, ok := host.(*libvirt.Host)
	if !ok {
		return "", nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	daemon, qemu, err := h.Versions(ctx)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("libvirt %s, QEMU %s", daemon, qemu), h.Lacks(daemon, qemu), nil
}

// savingHost is the host of one VM that the dead-man looks after.
func (in *invocation) savingHost(r recipe) snapshot.Saver {
	if r.Libvirt != "" {
		return in.libvirtHost(&config.Config{}, config.Host{Libvirt: &config.Libvirt{URI: r.Libvirt}}, nil)
	}
	return in.qemuHost(&config.Config{}, config.Host{QEMU: []config.QEMUVM{{Name: r.Name, QMP: r.QMP, GuestAgent: r.GuestAgent}}}, nil)
}

// treeHost is the host of one VM whose checkpoints the dead-man looks after.
func (in *invocation) treeHost(r recipe) *qemu.Host {
	host := qemu.NewHost([]qemu.VM{{Name: r.Name, QMP: r.QMP, Wipe: r.Wipe}}, qemu.Options{Log: in.logger(slog.LevelWarn), CheckpointDir: r.Trees})
	in.opened = append(in.opened, host)
	return host
}

func (in *invocation) qemuHost(cfg *config.Config, h config.Host, ledger *space.Ledger) *qemu.Host {
	var vms []qemu.VM
	for _, vm := range h.QEMU {
		vms = append(vms, qemu.VM{
			Name: vm.Name, QMP: vm.QMP, GuestAgent: vm.GuestAgent,
			DeltaDir: cmp.Or(vm.Deltas.Dir, h.Deltas.Dir), Wipe: cfg.WipesDeltas(h.Name + "/" + vm.Name),
		})
	}
	opt := qemu.Options{Name: h.Name, Log: in.logger(slog.LevelWarn), Space: in.limits(h), Ledger: ledger, Observe: in.checkpointStep}
	if h.Name != "" { // else nothing but its guest is of interest
		opt.CheckpointDir = filepath.Join(cfg.Agent.StateDir, "checkpoints", h.Name)
		opt.CheckpointStop = cfg.Checkpoints.MaxStop
		opt.Guard = in.checkpointGuard(cfg, h.Name, opt.CheckpointDir)
		opt.Whole = true
	}
	host := qemu.NewHost(vms, opt)
	in.opened = append(in.opened, host)
	return host
}

// limits of a host's deltas.
func (in *invocation) limits(h config.Host) space.Limits {
	limits := h.Space
	if in.MinFree != 0 && limits.Free == (space.Pair{}) {
		delta := limits.Delta
		limits = space.LeaveFree(in.MinFree)
		limits.Delta = delta
	}
	return limits
}

// imageHost serves powered-off VMs and loose images.
func imageHost(configured []config.ImageVM) snapshot.Host {
	var vms []image.VM
	for _, vm := range configured {
		var disks []image.DiskSpec
		for _, d := range vm.Disks {
			disks = append(disks, image.DiskSpec{Name: d.Name, Path: d.Path, Format: d.Format, Parents: d.Parents})
		}
		vms = append(vms, image.VM{Name: vm.Name, Disks: disks})
	}
	return image.NewHost(vms)
}

// chainOf looks at a chain of images.
func chainOf(path string, format snapshot.Format, parents []string) (chainResult, error) {
	infos, err := image.Chain(path, format, parents...)
	res := chainResult{Chain: []chainLayer{}}
	var layers []snapshot.Layer
	for _, i := range infos {
		merging, pendingErr := merge.Pending(i.Path)
		err = errors.Join(err, pendingErr)
		res.Chain = append(res.Chain, chainLayer{
			Path: i.Path, Format: i.Format, Kind: i.Kind, Size: i.Size, ID: i.ID,
			ParentID: i.ParentID, ParentPaths: i.ParentPaths, Dirty: i.Dirty, Merging: merging,
		})
		layers = append(layers, snapshot.Layer{Path: i.Path, Format: i.Format})
	}
	if err == nil {
		res.Warnings, err = image.Doubts(layers)
	}
	return res, err
}

// verifyChain sees that a chain of images is whole.
func verifyChain(ctx context.Context, path string, format snapshot.Format, parents []string) (chainResult, error) {
	layers, err := image.ResolveChain(path, format, parents...)
	if err != nil {
		return chainResult{}, err
	}
	if err := image.Verify(ctx, layers); err != nil {
		return chainResult{}, err
	}
	return chainOf(path, format, parents)
}

// mergeChain merges an image into the one that it was made on.
func mergeChain(ctx context.Context, path string, format snapshot.Format, flags chainFlags, progress func(done, total int64)) (mergeResult, error) {
	res, err := merge.Run(ctx, merge.Job{
		Child: path, Format: format, Parents: flags.parents, Discard: flags.discard, Unchanged: flags.unchanged,
		Progress: progress,
	})
	return mergeResult{Image: res.Child, Parent: res.Parent, Written: res.Written, Resumed: res.Resumed, Discarded: res.Discarded}, err
}

// diskImages creates the disks that are restored into.
func diskImages(wiped bool) snapshot.Images { return image.Images{Wipe: wiped} }

// definer makes a restored VM startable.
func definer() snapshot.Definer { return qemu.Definer{} }

// domainDefiner defines a restore point in libvirt, with its memory where it has one that
// libvirt can take.
func (in *invocation) domainDefiner(cfg *config.Config, flags domainFlags, p repo.Point) (snapshot.Definer, error) {
	uri := flags.where
	if cfg != nil {
		for _, h := range cfg.Hosts {
			if h.Name == flags.where && h.Libvirt != nil {
				uri = h.Libvirt.URI
			}
		}
	}
	address, err := rpc.ParseAddress(uri)
	if err != nil && strings.Contains(uri, "://") { // which says why not
		return nil, &marked{fmt.Errorf("--define: %w", err), errUsage}
	}
	if err != nil {
		return nil, withHint(usagef("--define %s: no libvirt host of the configuration, and no URI of QEMU on this host", flags.where), "write qemu:///system")
	}
	if flags.as != "" && !config.ValidVM(flags.as) {
		return nil, withHint(usagef("--as %s: lull could not back up a VM of this name", flags.as), "choose a plain one")
	}
	d := libvirt.Definer{Address: address, Name: flags.as, Replace: flags.replace, TPMDir: in.TPMDir,
		Remark: func(text string) { in.warn("%s", text) }}
	var files []snapshot.File
	for _, f := range p.Files {
		files = append(files, f.File)
	}
	if flags.as == "" && libvirt.HasMemory(files) {
		return libvirt.MemoryDefiner{Definer: d, Wipe: cfg != nil && cfg.WipesDeltas(p.VM)}, nil
	}
	return d, nil
}

// writers starts the writers of a group for one guest, each in a process of its own.
// One that does not start is there all the same, and fails: a level that is reached
// without it would be a lie.
func (in *invocation) writers(cfg *config.Config, group config.Group) agent.Writers {
	return func(ctx context.Context, guest snapshot.Guest) ([]quiesce.Writer, func() error, error) {
		writers, stop := in.startWriters(ctx, in.writerSpecs(cfg, group), guest)
		return writers, stop, nil
	}
}

// allWriters are those of every group of a VM.
func (in *invocation) allWriters(cfg *config.Config) func(vm string) agent.Writers {
	return func(vm string) agent.Writers {
		if cfg == nil {
			return nil
		}
		return in.writers(cfg, anyGroup(cfg, vm))
	}
}

// anyGroup has what any group of a VM has: nobody knows which a run was of.
func anyGroup(cfg *config.Config, vm string) (all config.Group) {
	for _, g := range cfg.GroupsOf(vm) {
		all.Writers = append(all.Writers, g.Writers...)
	}
	if len(all.Writers) == 0 {
		all.Writers = cfg.Writers()
	}
	slices.Sort(all.Writers)
	all.Writers = slices.Compact(all.Writers)
	return all
}

// wanted is a writer of a group; err says why it cannot be started.
type wanted struct {
	plugins.Spec
	err error
}

func (in *invocation) writerSpecs(cfg *config.Config, group config.Group) (all []wanted) {
	for _, name := range group.Writers {
		if !idle(group, name) {
			spec, err := in.groupSpec(cfg, group, name)
			spec.Name = name
			all = append(all, wanted{spec, err})
		}
	}
	return all
}

func (in *invocation) startWriters(ctx context.Context, specs []wanted, guest snapshot.Guest) ([]quiesce.Writer, func() error) {
	writers := make([]quiesce.Writer, len(specs))
	stops := make([]func() error, len(specs))
	var all sync.WaitGroup
	for i, w := range specs {
		all.Go(func() { writers[i], stops[i] = in.startWriter(ctx, w, guest) })
	}
	all.Wait()
	return writers, func() error { return closeAll(stops) }
}

func (in *invocation) startWriter(ctx context.Context, w wanted, guest snapshot.Guest) (quiesce.Writer, func() error) {
	p, err := (*plugins.Plugin)(nil), w.err
	if err == nil {
		p, err = plugins.Start(ctx, w.Spec, guest, in.logger(slog.LevelWarn))
	}
	if err != nil {
		return &unable{name: w.Name, err: err}, func() error { return nil }
	}
	return configured{p, w.Name}, p.Close
}

// restoreWriter starts a writer of the configuration for a restore: without a guest.
func (in *invocation) restoreWriter(cfg *config.Config) agent.RestoreWriter {
	return func(ctx context.Context, name string) (quiesce.Writer, func() error, error) {
		if !slices.Contains(cfg.Writers(), name) {
			return nil, nil, nil
		}
		spec, err := in.writerSpec(cfg, name)
		if err != nil {
			return nil, nil, err
		}
		p, err := plugins.Start(ctx, spec, nil, in.logger(slog.LevelWarn))
		if err != nil {
			return nil, nil, withHint(err, "--without-writers restores without asking it")
		}
		return p, p.Close, nil
	}
}

func closeAll(stops []func() error) error {
	var errs []error
	for _, stop := range stops {
		errs = append(errs, stop())
	}
	return errors.Join(errs...)
}

// idle says that a group has no use for a writer: that of a database, which every group
// has, where the level application is not asked for.
func idle(group config.Group, name string) bool {
	ladder := group.Policy.Ladder
	return slices.Contains(config.DatabaseWriters(), name) && len(ladder) > 0 && !slices.Contains(ladder, quiesce.LevelApplication)
}

// groupSpec is writerSpec with what the group says of its writers.
func (in *invocation) groupSpec(cfg *config.Config, group config.Group, name string) (plugins.Spec, error) {
	spec, err := in.writerSpec(cfg, name)
	if err != nil || name != config.FilesystemWriter {
		return spec, err
	}
	return withSettings(spec, filesystem.Settings{MountPoints: group.MountPoints})
}

// writerSpec says how a writer is started: one that comes with lull is this very
// program, the others are those of the configuration.
func (in *invocation) writerSpec(cfg *config.Config, name string) (plugins.Spec, error) {
	if name == config.FilesystemWriter {
		// To read files is for the log of the guest's hooks.
		return in.builtin(name, name, plugins.GrantInfo, plugins.GrantFreeze, plugins.GrantReadFile), nil
	}
	if s, ok := cfg.Script(name); ok {
		return in.scriptSpec(cfg, s)
	}
	if slices.Contains(config.DatabaseWriters(), name) {
		return withSettings(in.builtin(name, name, plugins.GrantInfo, plugins.GrantExec), databaseSettings(cfg.Databases, name))
	}
	p, ok := cfg.Plugin(name)
	if !ok {
		return plugins.Spec{}, missingf("writer %s is not in %s", name, cfg.Path)
	}
	return pluginSpec(p), nil
}

// builtin is a writer that this program is.
func (in *invocation) builtin(name, served string, grants ...plugins.Grant) plugins.Spec {
	return plugins.Spec{Name: name, Path: in.Program, Args: []string{pluginServe, served}, Grants: grants}
}

// withSettings adds what a writer that comes with lull is to know. No secrets: everyone
// can see the arguments of a process.
func withSettings(spec plugins.Spec, settings any) (plugins.Spec, error) {
	text, err := json.Marshal(settings)
	spec.Args = append(spec.Args, string(text))
	return spec, err
}

func databaseSettings(d config.Databases, name string) any {
	if name == config.PostgreSQLWriter {
		return postgresql.Settings{ServiceFile: d.PostgreSQLServiceFile, Only: d.PostgreSQLOnly}
	}
	return mariadb.Settings{DefaultsFile: d.MariaDBDefaultsFile, Only: d.MariaDBOnly}
}

// scriptWriter is what the writer of all scripts is served as; each has its own name.
const scriptWriter = "script"

func (in *invocation) scriptSpec(cfg *config.Config, s config.Script) (plugins.Spec, error) {
	spec := in.builtin(s.Name, scriptWriter, plugins.GrantInfo, plugins.GrantExec)
	settings := script.Settings{Name: s.Name, Host: s.Host, Freeze: s.Freeze, Thaw: s.Thaw, Limit: s.Limit, Tier: s.Tier}
	if s.Host {
		spec.Grants, spec.Runs = nil, []string{s.Freeze[0]}
		if len(s.Thaw) > 0 {
			spec.Runs = append(spec.Runs, s.Thaw[0])
		}
		settings.State = filepath.Join(cfg.Agent.StateDir, "scripts")
	}
	return withSettings(spec, settings)
}

// pluginSpec is how a plugin of the configuration is started.
func pluginSpec(p config.Plugin) plugins.Spec {
	spec := plugins.Spec{
		Name: p.Name, Path: p.Path, SHA256: p.SHA256, Args: p.Args, Env: p.Env, User: p.User, Guarded: true,
	}
	for _, g := range p.Grants {
		spec.Grants = append(spec.Grants, plugins.Grant(g))
	}
	return spec
}

// pluginServe is the hidden command that a plugin process runs.
const pluginServe = "plugin-serve"

func (in *invocation) pluginServeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    pluginServe + " NAME [SETTINGS]",
		Short:  "Be a writer plugin; lull starts it by itself",
		Hidden: true,
		Args:   argCount(1, 2, "the plugin"),
		RunE: in.run(func(_ *cobra.Command, args []string) error {
			err := serveWriter(args[0], strings.Join(args[1:], ""))
			if errors.Is(err, sdk.ErrNotStartedByLull) {
				return &marked{err, errUsage}
			}
			if err != nil {
				return fmt.Errorf("serve plugin: %w", err)
			}
			return nil
		}),
	}
}

// serveWriter is the main function of a plugin that comes with lull.
func serveWriter(name, settings string) error {
	switch name {
	case config.FilesystemWriter:
		return filesystem.Serve(settings)
	case config.PostgreSQLWriter:
		return postgresql.Serve(settings)
	case config.MariaDBWriter:
		return mariadb.Serve(settings)
	case scriptWriter:
		return script.Serve(settings)
	}
	return usagef("no writer %q comes with lull", name)
}
