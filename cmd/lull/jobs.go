package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// looseFlags describe disk images that no configuration names.
type looseFlags struct {
	images []string
	format string
	name   string
	// parents are where images are that the named ones were made on.
	parents []string
}

// vmJob is one VM that the user asked to back up.
type vmJob struct {
	name    string // of its restore points: host/vm, or a loose image's
	vm      string // on its host
	host    snapshot.Host
	policy  quiesce.Policy
	writers agent.Writers                     // nil: none
	deadMan func(snapshot.Plan) quiesce.Guard // nil: none
	target  target

	tracking agent.Tracking
	slowdown snapshot.Slowdown
}

// backupJobs turns the arguments of `lull backup` into jobs.
func (in *invocation) backupJobs(ctx context.Context, args []string, loose looseFlags) ([]vmJob, error) {
	switch {
	case len(loose.images) == 0 && (loose.format != "" || loose.name != "" || len(loose.parents) > 0):
		return nil, withHint(usagef("backup: --format, --name and --parent describe an image"), "name it with --image PATH")
	case len(loose.images) == 0 && len(args) == 0:
		return nil, withHint(usagef("backup: nothing to back up is named"), "name VMs of the configuration, or --image PATH")
	case len(loose.images) > 0 && len(args) > 0:
		return nil, withHint(usagef("backup %s: VMs and --image exclude each other", args[0]), "run lull twice")
	case len(loose.images) > 0:
		return in.looseJob(loose)
	}
	if in.flags.repoDir != "" {
		return nil, withHint(usagef("backup %s: --repo needs --image", args[0]),
			"name the repository with --repository, or the disk with --image")
	}
	cfg, err := in.loadConfig()
	if err != nil {
		return nil, orElse(err, "--repo DIR --image PATH")
	}
	hosts := in.openHosts(cfg)
	cfg, err = in.discover(ctx, cfg, hosts)
	in.fail(err) // of the others there may be all that is asked for
	var jobs []vmJob
	for _, name := range in.chooseVMs(cfg, args) {
		job, err := in.configuredJob(cfg, hosts, name)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, job)
	}
	return jobs, nil
}

// chooseVMs finds the VMs that the arguments mean, each once. An argument that
// means none or too many is reported; the others are backed up all the same.
func (in *invocation) chooseVMs(cfg *config.Config, args []string) []string {
	var chosen []string
	for _, arg := range args {
		names, err := matchVM(cfg, arg)
		in.failVM(arg, err)
		for _, n := range names {
			if !slices.Contains(chosen, n) {
				chosen = append(chosen, n)
			}
		}
	}
	return chosen
}

// matchVM finds the VMs that one argument means.
func matchVM(cfg *config.Config, arg string) ([]string, error) {
	if _, err := filepath.Match(arg, ""); err != nil {
		return nil, withHint(usagef("%s: malformed pattern", arg), "a [ needs its ]")
	}
	names := cfg.Match(arg)
	switch {
	case len(names) == 0:
		return nil, withHint(missingf("%s: no such VM in %s", arg, cfg.Path), "see `lull vms`")
	case len(names) > 1 && !strings.ContainsAny(arg, `*?[\`):
		return nil, withHint(usagef("%s is the name of several VMs", arg), "say which: %s", orList(names))
	}
	return names, nil
}

// configuredJob takes repository and policy from the VM's group.
func (in *invocation) configuredJob(cfg *config.Config, hosts map[string]snapshot.Host, name string) (vmJob, error) {
	hostName, vm, _ := strings.Cut(name, "/")
	group, grouped, err := in.groupFor(cfg, name)
	if err != nil {
		return vmJob{}, err
	}
	job := vmJob{name: name, vm: vm, host: hosts[hostName], policy: defaultPolicy(), target: target{config: cfg}}
	if !grouped || in.flags.repository != "" {
		job.target.repository, err = in.chooseRepository(cfg)
	} else {
		job.target.repository, _ = cfg.Repository(group.Repository)
	}
	if grouped {
		job.policy, job.tracking, job.slowdown = group.Policy, tracking(group), group.Slowdown
	} else {
		group.Writers = cfg.Writers()
	}
	job.writers, job.deadMan = in.writers(cfg, group), in.deadMan(cfg, group, name)
	return job, err
}

// groupFor is the group whose rules a backup by hand follows: the only one of
// the VM, or the first that uses the repository asked for.
func (in *invocation) groupFor(cfg *config.Config, vm string) (group config.Group, found bool, err error) {
	groups := cfg.GroupsOf(vm)
	if len(groups) == 0 {
		return config.Group{}, false, nil
	}
	if name := in.flags.repository; name != "" {
		if i := slices.IndexFunc(groups, func(g config.Group) bool { return g.Repository == name }); i >= 0 {
			return groups[i], true, nil
		}
		return groups[0], true, nil
	}
	for _, g := range groups[1:] {
		if g.Repository != groups[0].Repository {
			return config.Group{}, false, withHint(
				usagef("%s is in groups with different repositories", vm),
				"choose with --repository %s or %s", groups[0].Repository, g.Repository)
		}
	}
	return groups[0], true, nil
}

// defaultPolicy is for a VM without a group: as good as the guest allows.
func defaultPolicy() quiesce.Policy {
	return quiesce.Policy{
		Ladder: []quiesce.Level{quiesce.LevelApplication, quiesce.LevelFilesystem, quiesce.LevelCrash},
		Floor:  quiesce.LevelCrash,
		Retry:  quiesce.DefaultRetry(),
	}
}

// looseJob makes one VM of disk images.
func (in *invocation) looseJob(loose looseFlags) ([]vmJob, error) {
	format, err := readFormat(loose.format)
	if err != nil {
		return nil, err
	}
	t, err := in.target()
	if err != nil {
		return nil, err
	}
	vm := config.ImageVM{Name: loose.name}
	if vm.Name == "" {
		vm.Name = stem(loose.images[0])
	}
	if err := checkName(vm.Name); err != nil {
		return nil, err
	}
	for _, path := range loose.images {
		disk, err := in.looseDisk(path, format)
		if err != nil {
			return nil, fmt.Errorf("back up %s: %w", vm.Name, err)
		}
		disk.Parents = loose.parents
		vm.Disks = append(vm.Disks, disk)
	}
	if err := distinct(loose.images); err != nil {
		return nil, fmt.Errorf("back up %s: %w", vm.Name, err)
	}
	// Of an image that nobody vouches for no more is known than that it stands
	// still now.
	policy := quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelCrash}, Floor: quiesce.LevelCrash}
	return []vmJob{{name: vm.Name, vm: vm.Name, host: imageHost([]config.ImageVM{vm}), policy: policy, target: t}}, nil
}

// distinct refuses one file under two names: it would be two disks of the VM.
func distinct(paths []string) error {
	var seen []os.FileInfo
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("image: %w", plainPath(err))
		}
		for i, other := range seen {
			if os.SameFile(info, other) {
				return withHint(usagef("image %s: is the same file as %s", path, paths[i]), "name each disk once")
			}
		}
		seen = append(seen, info)
	}
	return nil
}

// looseDisk looks at one image file. Its format is never probed: a guest could
// have written the bytes that say what it is.
func (in *invocation) looseDisk(path string, format snapshot.Format) (config.ImageDisk, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return config.ImageDisk{}, fmt.Errorf("image %s: %w", path, err)
	}
	info, err := os.Stat(abs)
	switch {
	case os.IsNotExist(err):
		return config.ImageDisk{}, withHint(missingf("image %s: no such file", path), "check the path given to --image")
	case err != nil:
		return config.ImageDisk{}, fmt.Errorf("image: %w", plainPath(err))
	case info.IsDir():
		return config.ImageDisk{}, withHint(usagef("image %s: is a folder", path), "name the image file in it")
	}
	if format == "" {
		format = formatByName(path)
		in.note("%s is taken as %s, by its name; --format says otherwise", path, format)
	}
	return config.ImageDisk{Path: abs, Format: format}, nil
}

// readFormat reads the value of --format; empty stays empty.
func readFormat(s string) (snapshot.Format, error) {
	if f := snapshot.Format(s); f == "" || slices.Contains(snapshot.ReadFormats(), f) {
		return f, nil
	}
	return "", withHint(usagef("--format %s: unknown format", s), "use raw, qcow2, vhd, vhdx or vmdk")
}

func formatByName(path string) snapshot.Format {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".qcow2", ".qcow":
		return snapshot.FormatQcow2
	case ".vhd", ".avhd":
		return snapshot.FormatVHD
	case ".vhdx", ".avhdx":
		return snapshot.FormatVHDX
	case ".vmdk":
		return snapshot.FormatVMDK
	}
	return snapshot.FormatRaw
}

// stem is a file's base name without its ending.
func stem(path string) string {
	base := filepath.Base(path)
	if name := strings.TrimSuffix(base, filepath.Ext(base)); name != "" {
		return name
	}
	return base
}

// checkName refuses a VM's name that could not be typed back or that means
// something else: @ begins a restore point, / a host's VM.
func checkName(name string) error {
	if name != "" && len(name) <= config.MaxName && name == printable(name) &&
		!strings.ContainsAny(name, "@/*?[]\\") && name[0] != '-' && name[0] != '.' {
		return nil
	}
	return withHint(usagef("backup: %q cannot be the name of a VM", name), "choose a plain one with --name")
}
