package rpc

import "context"

// Flags of SnapshotCreate.
const (
	SnapshotNoMetadata = 4
	SnapshotDiskOnly   = 16
	SnapshotReuse      = 32 // files that are there already
	SnapshotQuiesce    = 64
	SnapshotAtomic     = 128
	SnapshotLive       = 256
)

// SnapshotCreate takes a snapshot by its XML and returns its name.
func (c *Conn) SnapshotCreate(ctx context.Context, d Domain, xml string, flags uint32) (string, error) {
	var name str
	var of Domain
	err := c.call(ctx, remote(185, "take snapshot"), args{d, str(xml), u32(flags)}, &name, &of) // DOMAIN_SNAPSHOT_CREATE_XML
	return string(name), err
}

// Named is something of a domain that has a name: a snapshot or a checkpoint.
type named struct {
	name string
	of   Domain
}

// names is a list of such in a reply, with its length once more after it.
type names []string

func (n *names) get(r *reader) {
	for _, one := range list(r, 4+domainSize, func(r *reader) named { return named{r.str(), r.domain()} }) {
		*n = append(*n, one.name)
	}
	r.u32()
}

// Snapshots are the names of a domain's snapshots that libvirt keeps.
func (c *Conn) Snapshots(ctx context.Context, d Domain) ([]string, error) {
	var all names
	err := c.call(ctx, remote(274, "list snapshots"), args{d, i32(1), u32(0)}, &all) // DOMAIN_LIST_ALL_SNAPSHOTS
	return all, err
}

// Checkpoints are the names of a domain's checkpoints that libvirt keeps.
func (c *Conn) Checkpoints(ctx context.Context, d Domain) ([]string, error) {
	var all names
	err := c.call(ctx, remote(413, "list checkpoints"), args{d, i32(1), u32(0)}, &all) // DOMAIN_LIST_ALL_CHECKPOINTS
	return all, err
}

// CheckpointXML is a checkpoint's definition.
func (c *Conn) CheckpointXML(ctx context.Context, d Domain, name string) (string, error) {
	var xml str
	err := c.call(ctx, remote(412, "read checkpoint's XML"), args{checkpoint{name, d}, u32(0)}, &xml) // DOMAIN_CHECKPOINT_GET_XML_DESC
	return string(xml), err
}

type checkpoint named

func (n checkpoint) put(w *writer) {
	w.str(n.name)
	n.of.put(w)
}

// Flags of BlockCommit.
const (
	CommitShallow        = 1
	CommitDelete         = 2
	CommitActive         = 4
	CommitBandwidthBytes = 16 // the bandwidth is in bytes a second, not MiB
)

// BlockCommit begins to commit top into base; empty ones are the chain's ends. disk is a
// target, such as vda, or a path. A bandwidth of 0 is no limit.
func (c *Conn) BlockCommit(ctx context.Context, d Domain, disk, base, top string, bandwidth uint64, flags uint32) error {
	return c.call(ctx, remote(290, "commit disk"), // DOMAIN_BLOCK_COMMIT
		args{d, str(disk), opt(base), opt(top), u64(bandwidth), u32(flags)})
}

// BlockJobType is what a block job does.
type BlockJobType int32

// Types of block jobs.
const (
	BlockJobPull         BlockJobType = 1
	BlockJobCopy         BlockJobType = 2
	BlockJobCommit       BlockJobType = 3
	BlockJobActiveCommit BlockJobType = 4
	BlockJobBackup       BlockJobType = 5
)

// BlockJobStatus is Event.Detail of an EventBlockJob.
type BlockJobStatus int32

// Statuses of block jobs.
const (
	BlockJobCompleted BlockJobStatus = 0
	BlockJobFailed    BlockJobStatus = 1
	BlockJobCanceled  BlockJobStatus = 2
	BlockJobReady     BlockJobStatus = 3
)

// BlockJob is a job on a disk, and how far it is.
type BlockJob struct {
	Type      BlockJobType
	Bandwidth uint64 // bytes a second; 0: no limit
	Cur, End  uint64
}

// BlockJobOf asks for the job of a disk; found tells whether there is one.
func (c *Conn) BlockJobOf(ctx context.Context, d Domain, disk string) (job BlockJob, found bool, err error) {
	const bandwidthBytes = 1
	var there, kind i32
	var bandwidth, cur, end u64
	err = c.call(ctx, remote(238, "ask for block job"), args{d, str(disk), u32(bandwidthBytes)}, // DOMAIN_GET_BLOCK_JOB_INFO
		&there, &kind, &bandwidth, &cur, &end)
	return BlockJob{BlockJobType(kind), uint64(bandwidth), uint64(cur), uint64(end)}, there != 0, err
}

// Flags of BlockJobAbort.
const (
	AbortAsync = 1
	AbortPivot = 2
)

// BlockJobAbort ends the job of a disk; with AbortPivot it lets the domain go on on the
// job's target.
func (c *Conn) BlockJobAbort(ctx context.Context, d Domain, disk string, flags uint32) error {
	return c.call(ctx, remote(237, "end block job"), args{d, str(disk), u32(flags)}) // DOMAIN_BLOCK_JOB_ABORT
}

// SetBlockJobSpeed limits the job of a disk, in bytes a second; 0: no limit.
func (c *Conn) SetBlockJobSpeed(ctx context.Context, d Domain, disk string, bandwidth uint64) error {
	const bandwidthBytes = 1
	return c.call(ctx, remote(239, "limit block job"), args{d, str(disk), u64(bandwidth), u32(bandwidthBytes)}) // DOMAIN_BLOCK_JOB_SET_SPEED
}

// BlockInfo is how large a disk is, in bytes.
type BlockInfo struct {
	Capacity   uint64 // virtual
	Allocation uint64 // up to its highest block
	Physical   uint64 // on the host
}

// BlockInfoOf asks for the size of a disk.
func (c *Conn) BlockInfoOf(ctx context.Context, d Domain, disk string) (BlockInfo, error) {
	var allocation, capacity, physical u64
	err := c.call(ctx, remote(194, "ask for disk's size"), args{d, str(disk), u32(0)}, // DOMAIN_GET_BLOCK_INFO
		&allocation, &capacity, &physical)
	return BlockInfo{uint64(capacity), uint64(allocation), uint64(physical)}, err
}

// SetBlockThreshold asks for one EventBlockThreshold when a node is written to beyond so
// many bytes. disk is a target, such as vda, or with an index of its chain, vda[1].
func (c *Conn) SetBlockThreshold(ctx context.Context, d Domain, disk string, bytes uint64) error {
	return c.call(ctx, remote(386, "set write threshold"), args{d, str(disk), u64(bytes), u32(0)}) // DOMAIN_SET_BLOCK_THRESHOLD
}

// SetBlockIoTune limits what a disk does: params are uint64 or string by libvirt's names. affect
// is one of the constants that say which definition is meant.
func (c *Conn) SetBlockIoTune(ctx context.Context, d Domain, disk string, params Params, affect uint32) error {
	return c.call(ctx, remote(252, "limit disk"), args{d, str(disk), params, u32(affect)}) // DOMAIN_SET_BLOCK_IO_TUNE
}

// Kinds of Stats.
const (
	StatsState = 1
	StatsBlock = 32
	// StatsBacking, a flag: of the whole chains.
	StatsBacking = 1 << 30
)

type stats []Params

func (s *stats) get(r *reader) {
	*s = list(r, domainSize+4, func(r *reader) Params {
		r.domain()
		var p Params
		p.get(r)
		return p
	})
}

// Stats asks for a domain's figures: kinds are Stats constants.
func (c *Conn) Stats(ctx context.Context, d Domain, kinds, flags uint32) (Params, error) {
	var all stats
	err := c.call(ctx, remote(344, "ask for domain's figures"), args{one{d}, u32(kinds), u32(flags)}, &all) // CONNECT_GET_ALL_DOMAIN_STATS
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0], nil
}

// one is a list of one.
type one = present
