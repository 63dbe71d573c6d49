package rpc

import "context"

// JobType is what kind of job holds a domain.
type JobType int32

// Types of jobs.
const (
	JobNone      JobType = 0
	JobBounded   JobType = 1 // its end is known
	JobUnbounded JobType = 2
	JobCompleted JobType = 3
	JobFailed    JobType = 4
	JobCancelled JobType = 5
)

// JobOperation is what a job is for.
type JobOperation int64

// JobSnapshot is the one of these that lull tells apart: others are migrations, saves, dumps
// and backups.
const JobSnapshot JobOperation = 6

// Job asks for the job of a domain.
func (c *Conn) Job(ctx context.Context, d Domain) (JobType, JobOperation, error) {
	var kind i32
	var figures Params
	err := c.call(ctx, remote(298, "ask for domain's job"), args{d, u32(0)}, &kind, &figures) // DOMAIN_GET_JOB_STATS
	operation, _ := figures["operation"].(int64)
	return JobType(kind), JobOperation(operation), err
}

// AbortJob ends the job of a domain.
func (c *Conn) AbortJob(ctx context.Context, d Domain) error {
	return c.call(ctx, remote(164, "end domain's job"), args{d}) // DOMAIN_ABORT_JOB
}

// Flags of Save and Restore.
const (
	SaveBypassCache = 1
	SaveRunning     = 2 // it runs after Restore
	SavePaused      = 4
)

// Save writes a domain's memory into a file and ends it; xml, where not empty, is its definition
// at Restore.
func (c *Conn) Save(ctx context.Context, d Domain, path, xml string, flags uint32) error {
	return c.call(ctx, remote(232, "save domain"), args{d, str(path), opt(xml), u32(flags)}) // DOMAIN_SAVE_FLAGS
}

// Restore starts a domain from such a file.
func (c *Conn) Restore(ctx context.Context, path, xml string, flags uint32) error {
	return c.call(ctx, remote(233, "restore domain"), args{str(path), opt(xml), u32(flags)}) // DOMAIN_RESTORE_FLAGS
}

// SaveImageXML is the definition in such a file.
func (c *Conn) SaveImageXML(ctx context.Context, path string) (string, error) {
	const secure = 1
	var xml str
	err := c.call(ctx, remote(235, "read saved domain's XML"), args{str(path), u32(secure)}, &xml) // DOMAIN_SAVE_IMAGE_GET_XML_DESC
	return string(xml), err
}

// HasManagedSave tells whether libvirt keeps a domain's memory, with which it starts next.
func (c *Conn) HasManagedSave(ctx context.Context, d Domain) (bool, error) {
	var has i32
	err := c.call(ctx, remote(183, "look for managed save"), args{d, u32(0)}, &has) // DOMAIN_HAS_MANAGED_SAVE_IMAGE
	return has != 0, err
}

// ManagedSave saves a domain into such a file and ends it.
func (c *Conn) ManagedSave(ctx context.Context, d Domain, flags uint32) error {
	return c.call(ctx, remote(182, "save domain"), args{d, u32(flags)}) // DOMAIN_MANAGED_SAVE
}

// ManagedSaveXML is the definition in it. libvirt refuses to say one of a file that was not
// written to its end.
func (c *Conn) ManagedSaveXML(ctx context.Context, d Domain) (string, error) {
	var xml str
	err := c.call(ctx, remote(388, "read managed save's XML"), args{d, u32(0)}, &xml) // DOMAIN_MANAGED_SAVE_GET_XML_DESC
	return string(xml), err
}

// ManagedSaveRemove removes it.
func (c *Conn) ManagedSaveRemove(ctx context.Context, d Domain) error {
	return c.call(ctx, remote(184, "remove managed save"), args{d, u32(0)}) // DOMAIN_MANAGED_SAVE_REMOVE
}

// Capabilities of the host, as libvirt's XML.
func (c *Conn) Capabilities(ctx context.Context) (string, error) {
	var xml str
	err := c.call(ctx, remote(7, "ask for capabilities"), nil, &xml) // CONNECT_GET_CAPABILITIES
	return string(xml), err
}

// DomainCapabilities says what domains an emulator can be, as libvirt's XML. Empty arguments
// are libvirt's choice.
func (c *Conn) DomainCapabilities(ctx context.Context, emulator, arch, machine, kind string) (string, error) {
	var xml str
	err := c.call(ctx, remote(342, "ask for domain capabilities"), // CONNECT_GET_DOMAIN_CAPABILITIES
		args{opt(emulator), opt(arch), opt(machine), opt(kind), u32(0)}, &xml)
	return string(xml), err
}

// HypervisorVersion is that of QEMU.
func (c *Conn) HypervisorVersion(ctx context.Context) (Version, error) {
	var v u64
	err := c.call(ctx, remote(4, "ask for QEMU's version"), nil, &v) // CONNECT_GET_VERSION
	return Version(v), err
}
