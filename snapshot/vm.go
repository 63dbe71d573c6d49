package snapshot

// State of a VM.
type State string

const (
	StateRunning     State = "running"
	StatePaused      State = "paused"
	StateOff         State = "off"
	StateUnreachable State = "unreachable" // configured, but its hypervisor does not answer
)

// VM is one virtual machine of a host.
type VM struct {
	Name    string `json:"name"`
	State   State  `json:"state"`
	Disks   []Disk `json:"disks,omitempty"`
	Problem string `json:"problem,omitempty"` // why it is unreachable, in one line
	Guest   bool   `json:"guest_agent"`       // a guest agent channel is configured
}

// Format of a disk image.
type Format string

const (
	FormatRaw   Format = "raw"
	FormatQcow2 Format = "qcow2"
	FormatVHD   Format = "vhd"  // and its AVHD
	FormatVHDX  Format = "vhdx" // and its AVHDX
	FormatVMDK  Format = "vmdk"
)

// ReadFormats are the formats of images that are read from their files.
func ReadFormats() []Format {
	return []Format{FormatRaw, FormatQcow2, FormatVHD, FormatVHDX, FormatVMDK}
}

// Written tells whether images are made in the format, as a restore does.
func (f Format) Written() bool { return f == FormatRaw || f == FormatQcow2 }

// Disk is one disk of a VM, by the hypervisor's word.
type Disk struct {
	// Name is unique within the VM and stable from run to run: the device id
	// where the administrator gave one, else derived from its place.
	Name   string `json:"name"`
	Path   string `json:"path"`   // file of the top layer; empty when it is no file
	Format Format `json:"format"` // of the top layer
	Size   int64  `json:"size"`   // virtual, bytes
}

// Excluded is a disk that is left out of a restore point.
type Excluded struct {
	Disk   Disk   `json:"disk"`
	Reason string `json:"reason"`
	// Expected marks what no backup would hold, such as a CD-ROM or an empty
	// drive: it is listed, but it is no warning.
	Expected bool `json:"expected,omitempty"`
}

// FileRole says what a small file is to its VM.
type FileRole string

const (
	RoleNVRAM  FileRole = "nvram"
	RoleKernel FileRole = "kernel"
	RoleInitrd FileRole = "initrd"
	// RoleTPM is a file of the state of an emulated TPM.
	RoleTPM FileRole = "tpm"
	// RoleDefinition is how the manager of the VM, such as libvirt, describes it in its own
	// words, secrets included. Its path names no file of the host.
	RoleDefinition FileRole = "definition"
	// RoleSavedState is the VM's memory and device state, in the hypervisor's own
	// format: no small file, so a Saver reads it as a Source.
	RoleSavedState FileRole = "saved-state"
)

// MaxFileSize bounds a file that travels whole in a restore point, in bytes.
const MaxFileSize = 256 << 20

// Written tells whether the guest writes to such files, by way of its hypervisor.
func (r FileRole) Written() bool { return r == RoleNVRAM || r == RoleTPM }

// File is a small file that a VM needs to start, beside its disks.
type File struct {
	Role FileRole `json:"role"`
	Path string   `json:"path"`
}

// Hardware describes a VM well enough to start it elsewhere.
type Hardware struct {
	Hypervisor string `json:"hypervisor,omitempty"` // "qemu"
	Version    string `json:"version,omitempty"`    // of the hypervisor
	UUID       string `json:"uuid,omitempty"`
	Machine    string `json:"machine,omitempty"` // versioned machine type
	Arch       string `json:"arch,omitempty"`    // as in qemu-system-ARCH
	CPU        string `json:"cpu,omitempty"`     // model
	// Accelerator is "kvm" or "tcg"; a saved state goes on under the same one only.
	Accelerator string `json:"accelerator,omitempty"`
	// HostCPU is the processor of the host as its kernel names it, where the guest
	// sees that instead of a model.
	HostCPU  string   `json:"host_cpu,omitempty"`
	VCPUs    int      `json:"vcpus,omitempty"`
	Memory   int64    `json:"memory,omitempty"`   // bytes
	Firmware string   `json:"firmware,omitempty"` // "bios" or "uefi"
	Devices  []Device `json:"devices,omitempty"`
	// CommandLine is the hypervisor's own argument vector where it can be
	// seen, program name first.
	CommandLine []string `json:"command_line,omitempty"`
}

// Device is one virtual device.
type Device struct {
	ID     string `json:"id,omitempty"`
	Driver string `json:"driver"`         // QEMU's device model, as in -device
	Disk   string `json:"disk,omitempty"` // Disk.Name that it serves
	Path   string `json:"path,omitempty"` // the hypervisor's own path, such as a QOM path
	// What the guest knows a disk by: its serial number, and where it is on the PCI bus as
	// the guest sees that, such as 0000:00:05.0. Empty where there is none, or none is known.
	Serial  string `json:"serial,omitempty"`
	Address string `json:"address,omitempty"`
}

// Plan names every side effect of one snapshot. It is what the journal stores.
type Plan struct {
	Host     string     `json:"host"` // kind of host that made it: "qemu", "image"
	VM       string     `json:"vm"`
	Run      string     `json:"run"`
	State    State      `json:"state"` // of the VM when the plan was made
	Disks    []DiskPlan `json:"disks"`
	Excluded []Excluded `json:"excluded,omitempty"`
	Files    []File     `json:"files,omitempty"`
	// Warnings are of what the point will lack or the run puts at risk, each with
	// what to do.
	Warnings []string `json:"warnings,omitempty"`
	Hardware Hardware `json:"hardware"`
	// Saved is where a Saver puts the VM's memory. Other hosts leave it empty.
	Saved SavedPlan `json:"saved,omitzero"`
	// Slowdown is when a Merger may slow the guest down. Who makes the plan's run sets it.
	Slowdown Slowdown `json:"slowdown,omitzero"`
	// Instance tells this start of the hypervisor process from any other, so
	// that recovery knows whether the chain it sees can still be the planned one.
	Instance string `json:"instance,omitempty"`
}

// SavedPlan names the file that holds the VM's memory and device state from
// TakeSaved to Merge.
type SavedPlan struct {
	Path  string `json:"path,omitempty"`  // empty: the VM's state cannot be saved
	Limit int64  `json:"limit,omitempty"` // bytes; the file never grows beyond
	// Bandwidth is what the hypervisor limits a migration to, in bytes a second. It is
	// lifted while the state is saved. Zero: there is no limit, or none is known.
	Bandwidth int64 `json:"bandwidth,omitempty"`
	// Wipe: the file is overwritten before it is removed.
	Wipe bool `json:"wipe,omitempty"`
}

// DiskPlan is the snapshot of one disk. The fields that a host does not use
// stay empty.
type DiskPlan struct {
	Disk
	Device    string `json:"device,omitempty"`     // how the hypervisor addresses the drive
	Node      string `json:"node,omitempty"`       // node at the top of the chain before the snapshot
	Delta     string `json:"delta,omitempty"`      // file that takes the guest's writes
	DeltaNode string `json:"delta_node,omitempty"` // its node; the file below it is DeltaNode + "-file"
	// Link is a symbolic link to a Delta that is elsewhere, beside the image, so that whoever
	// looks at the image learns of it.
	Link string `json:"link,omitempty"`
	// Wipe: what was in Delta is overwritten before the file is removed.
	Wipe   bool    `json:"wipe,omitempty"`
	Export string  `json:"export,omitempty"` // name under which the frozen node is served
	Chain  []Layer `json:"chain"`            // frozen layers, top first
	// Record is what the manager of the VM, such as libvirt, has noted of the disk for the
	// VM's next start, in its own words.
	Record string `json:"record,omitempty"`
	// Track is how a Tracker records what changes on the disk.
	Track TrackPlan `json:"track,omitzero"`
	// Key names what the hypervisor holds the key of an encrypted disk in, never the key. Its
	// delta is encrypted with the same.
	Key string `json:"key,omitempty"`
	// Limits are what the disk may do while nobody slows it down.
	Limits Limits `json:"limits,omitzero"`
	// Local: all layers are files that can be read without the hypervisor.
	Local bool `json:"local,omitempty"`
}

// Layer is one file of a backing chain.
type Layer struct {
	Path   string `json:"path"`
	Format Format `json:"format"`
}
