package config

import (
	"slices"
	"time"

	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/agent/schedule"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
)

// DefaultPath is where the file is looked for.
const DefaultPath = "/etc/lull/lull.yaml"

// Defaults of the agent section.
const (
	DefaultStateDir  = "/var/lib/lull"
	DefaultCacheDir  = "/var/cache/lull"
	DefaultPluginDir = "/usr/lib/lull/plugins"
	DefaultSocket    = "/run/lull/lull.sock"
	DefaultParallel  = 2
)

// Bounds of a file.
const (
	MaxSize     = 1 << 20 // bytes
	MaxName     = 64      // bytes of a name
	MaxKeep     = 10000   // of each keep rule
	MaxParallel = 64      // runs at once
	MaxJitter   = 12 * time.Hour
)

// Config is a checked file.
type Config struct {
	Path         string // as it was given to Load
	Agent        Agent
	Repositories []Repository // sorted by name
	Hosts        []Host       // sorted by name
	Plugins      []Plugin     // sorted by name
	Scripts      []Script     // sorted by name
	Databases    Databases
	Checkpoints  Checkpoints
	Groups       []Group // sorted by name
	// Warnings are what is allowed but hardly meant, sorted by line.
	Warnings []Problem
}

// Agent is what the daemon keeps where, and how much it does at once.
type Agent struct {
	StateDir  string        // journal and last results
	CacheDir  string        // index caches; may be lost
	PluginDir string        // where the programs of plugins are
	Socket    string        // of agent/control
	Parallel  int           // runs at once, 1 to MaxParallel
	Jitter    time.Duration // a scheduled run starts up to this much later
}

// Checkpoints is when local checkpoints are warned of, and how many are allowed. 0: no limit.
type Checkpoints struct {
	MaxAge    time.Duration
	MaxGrowth int64 // bytes, of a VM's images since its newest checkpoint
	MaxDepth  int   // that a VM rests upon
	// MaxStop is how long an operation may keep a VM stopped.
	MaxStop time.Duration
}

// Repository is where restore points go: Dir or S3, one of the two.
type Repository struct {
	Name           string
	Dir            string
	S3             *S3
	PassphraseFile string // empty: from the environment
	// Key is the label of the key that the passphrase is of; empty: any.
	Key string
	// KeyFile is a key file that this host keeps; empty: those in the store.
	KeyFile     string
	Deduplicate Deduplicate
	Padding     bool   // of packs
	Compression string // auto, fast or best; empty: auto
	// ObjectLock is nil where nothing is locked; only S3 has locks.
	ObjectLock  *ObjectLock
	Maintenance Maintenance
}

// Maintenance is when and how the agent prunes a repository.
type Maintenance struct {
	Schedule schedule.Schedule // zero for "manual": only by hand
	Grace    time.Duration     // how long what is to be deleted is marked before
}

// S3 is a bucket of an S3-compatible store.
type S3 struct {
	Endpoint        string // https://HOST[:PORT]
	Bucket          string
	Prefix          string // empty, or ends with a slash
	Region          string // may be empty
	CAFile          string // PEM; empty: the system's
	CredentialsFile string // of the AWS form; empty: the usual AWS chain
}

// Host is a source of VMs: QEMU, Images or Libvirt, one of the three.
type Host struct {
	Name    string
	QEMU    []QEMUVM
	Images  []ImageVM
	Libvirt *Libvirt
	Deltas  Deltas       // of all its VMs
	Space   space.Limits // that its deltas keep to
	// Found are the VMs of a Libvirt that With was told of; the file does not name them.
	Found []FoundVM
}

// QEMUVM is a running QEMU, by its sockets.
type QEMUVM struct {
	Name       string
	QMP        string
	GuestAgent string // may be empty
	Deltas     Deltas // goes before that of the host
}

// ImageVM is a powered-off VM, by its disk images.
type ImageVM struct {
	Name  string
	Disks []ImageDisk
}

// ImageDisk is one image file.
type ImageDisk struct {
	Name   string // unique in the VM; by default the file's base name without its ending
	Path   string
	Format snapshot.Format
	// Parents are where images are that it was made on, if not in its own folder.
	Parents []string
}

// Group is the VMs that share a schedule and policies.
type Group struct {
	Name       string
	Patterns   []string // as written
	VMs        []string // host/name of each VM that a pattern matches, sorted
	Repository string
	// Schedule is zero for "manual": the group runs only when asked to.
	Schedule schedule.Schedule
	Policy   quiesce.Policy
	// Writers that hold its guests still, by name, sorted.
	Writers []string
	// MountPoints are the file systems of its guests that are frozen; empty: all.
	MountPoints []string
	Keep        retention.Keep // zero: everything is kept
	CatchUp     bool           // a run missed while the agent was off is made up for

	Tracking Tracking
	// Slowdown is when its guests may be slowed down so that their deltas can be merged;
	// zero: never.
	Slowdown snapshot.Slowdown
	// WipeDeltas has the deltas of its guests overwritten before they are removed.
	WipeDeltas bool
}

// Tracking is whether runs read only what changed on the disks, where that is known.
type Tracking struct {
	Enabled bool
	Audit   time.Duration // how long disks go without being read whole; 0: for ever
}

// Repository finds a repository by name.
func (c *Config) Repository(name string) (Repository, bool) {
	i := slices.IndexFunc(c.Repositories, func(r Repository) bool { return r.Name == name })
	if i < 0 {
		return Repository{}, false
	}
	return c.Repositories[i], true
}

// VMs is host/name of every VM in the file, and of those that hosts have found, sorted.
func (c *Config) VMs() []string {
	return c.those(func(string, FoundVM) bool { return true })
}

// those are the VMs of which is says so, by host/name, sorted.
func (c *Config) those(is func(host string, vm FoundVM) bool) []string {
	var out []string
	for _, h := range c.Hosts {
		for _, vm := range h.vms() {
			if is(h.Name, vm) {
				out = append(out, h.Name+"/"+vm.Name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// GroupsOf are the groups that hold the VM host/name, sorted by name.
func (c *Config) GroupsOf(vm string) []Group {
	var out []Group
	for _, g := range c.Groups {
		if slices.Contains(g.VMs, vm) {
			out = append(out, g)
		}
	}
	return out
}

// KeepOf is the rules for the points of a VM in a repository, which all its groups that use
// the repository have; zero: everything is kept.
func (c *Config) KeepOf(vm, repository string) retention.Keep {
	for _, g := range c.GroupsOf(vm) {
		if g.Repository == repository {
			return g.Keep
		}
	}
	return retention.Keep{}
}

// Ungrouped is host/name of every VM that no group holds, sorted.
func (c *Config) Ungrouped() []string {
	return slices.DeleteFunc(c.VMs(), func(vm string) bool { return len(c.GroupsOf(vm)) > 0 })
}

// Match is the VMs that a pattern matches, sorted. A pattern without a slash is
// held against the name alone, whatever the host; with one, against host/name. With tag:
// before it, it is held against the tags of VMs that hosts have found, in place of the name.
// A malformed pattern matches nothing.
func (c *Config) Match(pattern string) []string {
	return c.those(func(host string, vm FoundVM) bool { return matches(pattern, host, vm) })
}

func (h Host) vms() []FoundVM {
	out := slices.Clone(h.Found)
	for _, vm := range h.QEMU {
		out = append(out, FoundVM{Name: vm.Name})
	}
	for _, vm := range h.Images {
		out = append(out, FoundVM{Name: vm.Name})
	}
	return out
}
