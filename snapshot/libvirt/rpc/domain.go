package rpc

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

const uuidSize = 16

// UUID of a domain.
type UUID [uuidSize]byte

func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

var errUUID = errors.New("no UUID")

// ParseUUID reads what String writes.
func ParseUUID(s string) (u UUID, err error) {
	n, err := hex.Decode(u[:], []byte(strings.ReplaceAll(s[:min(len(s), 36)], "-", "")))
	if err != nil || n != uuidSize || !strings.EqualFold(u.String(), s) {
		return UUID{}, errUUID
	}
	return u, nil
}

// Domain is how libvirt names a VM. The UUID is what counts; a name changes when a domain is
// renamed, and ID with each start.
type Domain struct {
	Name string
	UUID UUID
	ID   int32 // -1: it is not running
}

// domainSize is the least that a domain takes in a list, in bytes.
const domainSize = 4 + uuidSize + 4

func (d Domain) put(w *writer) {
	w.str(d.Name)
	w.b = append(w.b, d.UUID[:]...)
	w.u32(uint32(d.ID))
}

func (d *Domain) get(r *reader) {
	d.Name = r.str()
	copy(d.UUID[:], r.take(uuidSize))
	d.ID = int32(r.u32())
}

func (r *reader) domain() (d Domain) {
	d.get(r)
	return d
}

// State is what a domain does.
type State int32

// States.
const (
	StateNone        State = 0
	StateRunning     State = 1
	StateBlocked     State = 2
	StatePaused      State = 3
	StateShutdown    State = 4 // on its way to StateShutoff
	StateShutoff     State = 5
	StateCrashed     State = 6
	StatePMSuspended State = 7
)

// Reasons of StatePaused that lull tells apart.
const (
	PausedUser       = 1
	PausedMigration  = 2 // also while its memory is loaded from a file, until it goes on
	PausedSave       = 3
	PausedIOError    = 5
	PausedSnapshot   = 9
	PausedStartingUp = 11
)

// Flags of XML.
const (
	XMLSecure     = 1 // with secrets
	XMLInactive   = 2 // as at the next start
	XMLMigratable = 8 // as another libvirt takes it
)

// Flags that say which of a domain's definitions is meant.
const (
	AffectCurrent = 0
	AffectLive    = 1
	AffectConfig  = 2
)

// domains is a list in a reply, with its length once more after it.
type domains []Domain

func (d *domains) get(r *reader) {
	*d = list(r, domainSize, (*reader).domain)
	r.u32()
}

// Domains lists all domains, running and not.
func (c *Conn) Domains(ctx context.Context) ([]Domain, error) {
	var all domains
	err := c.call(ctx, remote(273, "list domains"), args{i32(1), u32(0)}, &all) // CONNECT_LIST_ALL_DOMAINS
	return all, err
}

// Lookup finds a domain by its name. snapshot.ErrNotFound: there is none.
func (c *Conn) Lookup(ctx context.Context, name string) (Domain, error) {
	var d Domain
	err := c.call(ctx, remote(23, "look up domain"), args{str(name)}, &d) // DOMAIN_LOOKUP_BY_NAME
	return d, err
}

// LookupUUID finds a domain by its UUID. snapshot.ErrNotFound: there is none.
func (c *Conn) LookupUUID(ctx context.Context, id UUID) (Domain, error) {
	var d Domain
	err := c.call(ctx, remote(24, "look up domain"), args{id}, &d) // DOMAIN_LOOKUP_BY_UUID
	return d, err
}

func (u UUID) put(w *writer) { w.b = append(w.b, u[:]...) }

// XML is a domain's definition; flags are XML constants.
func (c *Conn) XML(ctx context.Context, d Domain, flags uint32) (string, error) {
	var xml str
	err := c.call(ctx, remote(14, "read domain's XML"), args{d, u32(flags)}, &xml) // DOMAIN_GET_XML_DESC
	return string(xml), err
}

// State of a domain, and libvirt's reason code for it.
func (c *Conn) State(ctx context.Context, d Domain) (State, int, error) {
	var state, reason i32
	err := c.call(ctx, remote(212, "ask for domain's state"), args{d, u32(0)}, &state, &reason) // DOMAIN_GET_STATE
	return State(state), int(reason), err
}

// Metadata is the element of an XML namespace in a domain's metadata. CodeNoDomainMetadata:
// there is none.
func (c *Conn) Metadata(ctx context.Context, d Domain, namespace string, affect uint32) (string, error) {
	const element = 2
	var xml str
	err := c.call(ctx, remote(265, "read domain's metadata"), args{d, i32(element), opt(namespace), u32(affect)}, &xml) // DOMAIN_GET_METADATA
	return string(xml), err
}

// SetMetadata replaces that element; an empty one removes it. prefix is how libvirt
// writes the namespace.
func (c *Conn) SetMetadata(ctx context.Context, d Domain, element, prefix, namespace string, affect uint32) error {
	const kind = 2                                             // an element
	return c.call(ctx, remote(264, "write domain's metadata"), // DOMAIN_SET_METADATA
		args{d, i32(kind), opt(element), opt(prefix), opt(namespace), u32(affect)})
}

// Define makes a domain of its XML, or changes the one that has its name and UUID. It does
// not ask for validation: schemas are not installed everywhere, and the parser checks what counts.
func (c *Conn) Define(ctx context.Context, xml string) (Domain, error) {
	var d Domain
	err := c.call(ctx, remote(350, "define domain"), args{str(xml), u32(0)}, &d) // DOMAIN_DEFINE_XML_FLAGS
	return d, err
}

// Flags of Undefine.
const (
	UndefineManagedSave = 1
	UndefineSnapshots   = 2 // their metadata
	UndefineNVRAM       = 4
	UndefineKeepNVRAM   = 8
	UndefineCheckpoints = 16 // their metadata
	UndefineTPM         = 32 // from 8.9 on, as the next
	UndefineKeepTPM     = 64
)

// Undefine makes libvirt forget a domain that is off. Its disks stay.
func (c *Conn) Undefine(ctx context.Context, d Domain, flags uint32) error {
	return c.call(ctx, remote(231, "undefine domain"), args{d, u32(flags)}) // DOMAIN_UNDEFINE_FLAGS
}

// Flags of Create.
const (
	StartPaused      = 1
	StartAutodestroy = 2 // when the connection ends
	StartForceBoot   = 8 // without its managed save
)

// Create starts a domain.
func (c *Conn) Create(ctx context.Context, d Domain, flags uint32) (Domain, error) {
	var started Domain
	err := c.call(ctx, remote(196, "start domain"), args{d, u32(flags)}, &started) // DOMAIN_CREATE_WITH_FLAGS
	return started, err
}

// Destroy ends a domain as if its plug were pulled. graceful: only if that can be done
// with SIGTERM.
func (c *Conn) Destroy(ctx context.Context, d Domain, graceful bool) error {
	flags := u32(0)
	if graceful {
		flags = 1
	}
	return c.call(ctx, remote(234, "destroy domain"), args{d, flags}) // DOMAIN_DESTROY_FLAGS
}

// Suspend stops a domain's processors.
func (c *Conn) Suspend(ctx context.Context, d Domain) error {
	return c.call(ctx, remote(34, "pause domain"), args{d}) // DOMAIN_SUSPEND
}

// Resume lets them go on.
func (c *Conn) Resume(ctx context.Context, d Domain) error {
	return c.call(ctx, remote(28, "resume domain"), args{d}) // DOMAIN_RESUME
}

// Monitor sends a QMP command, a JSON object, past libvirt to a domain's QEMU, and returns its
// answer, {"return": ...} or {"error": ...}. It taints the domain.
func (c *Conn) Monitor(ctx context.Context, d Domain, command string) (string, error) {
	var answer str
	err := c.call(ctx, qemu(1, "send monitor command"), args{d, str(command), u32(0)}, &answer) // DOMAIN_MONITOR_COMMAND
	return string(answer), err
}

// Agent sends a command to the guest's agent and returns its answer. limit is in whole
// seconds at least 1; libvirt itself ends the call then, and only then is the next one
// let through.
func (c *Conn) Agent(ctx context.Context, d Domain, command string, limit time.Duration) (string, error) {
	var answer opt
	err := c.call(ctx, qemu(3, "send command to guest agent"), args{d, str(command), i32(seconds(limit)), u32(0)}, &answer) // DOMAIN_AGENT_COMMAND
	return string(answer), err
}

func seconds(d time.Duration) int32 {
	return int32(max(1, min(int64((d+time.Second-1)/time.Second), 1<<30)))
}

// SetAgentTimeout is how long libvirt's own calls to the guest's agent, such as FSFreeze, wait for an
// answer. Without it they wait for ever, and hold the domain so long.
func (c *Conn) SetAgentTimeout(ctx context.Context, d Domain, limit time.Duration) error {
	var result i32
	return c.call(ctx, remote(420, "set guest agent's timeout"), args{d, i32(seconds(limit)), u32(0)}, &result) // DOMAIN_AGENT_SET_RESPONSE_TIMEOUT
}

// FSFreeze freezes file systems of the guest, all when none is named, and returns how many.
func (c *Conn) FSFreeze(ctx context.Context, d Domain, mountPoints []string) (int, error) {
	var n i32
	err := c.call(ctx, remote(335, "freeze file systems"), args{d, strs(mountPoints), u32(0)}, &n) // DOMAIN_FSFREEZE
	return int(n), err
}

// FSThaw lets them go on.
func (c *Conn) FSThaw(ctx context.Context, d Domain) (int, error) {
	var n i32
	err := c.call(ctx, remote(336, "thaw file systems"), args{d, strs(nil), u32(0)}, &n) // DOMAIN_FSTHAW
	return int(n), err
}
