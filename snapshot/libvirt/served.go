package libvirt

import (
	"context"
	"errors"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
)

// identity is which domain is meant. A name can be another domain's from one step of a
// run to the next; the UUID cannot, and is what counts. Plans of early versions may
// have none: of these there is the name alone.
type identity struct {
	uuid rpc.UUID
	name string // as the plan has it, or as it is now
}

// identityOf is the domain of a plan.
func identityOf(p snapshot.Plan) identity {
	uuid, err := rpc.ParseUUID(p.Hardware.UUID)
	if err != nil {
		uuid = rpc.UUID{}
	}
	return identity{uuid, p.VM}
}

// lookUp finds the domain that has a name now.
func (h *Host) lookUp(ctx context.Context, name string) (d rpc.Domain, err error) {
	err = h.link.ask(ctx, func(c *rpc.Conn) (err error) {
		d, err = c.Lookup(ctx, name)
		return err
	})
	return d, err
}

// served is a domain that runs, by way of its QEMU, over a connection of its own.
type served struct {
	*qemu.Host
	link  *link
	users int
	held  bool // from Prepare to Merge
}

// use has fn work with a domain, which need not be there.
func (h *Host) use(id identity, fn func(*qemu.Host) error) error {
	s := h.acquire(id)
	err := fn(s.Host)
	h.release(id, s)
	return err
}

// hold is use by a run that goes on: what fn leaves open stays so until Merge.
func (h *Host) hold(id identity, fn func(*qemu.Host) error) error {
	s := h.acquire(id)
	h.mu.Lock()
	s.held = true
	h.mu.Unlock()
	err := fn(s.Host)
	h.release(id, s)
	return err
}

func (h *Host) acquire(id identity) *served {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.hosts[id]
	if s == nil {
		d := h.domain(id)
		s = &served{link: d.link, Host: qemu.NewHost([]qemu.VM{{Name: id.name, Manager: d, DeltaDir: h.deltas, Wipe: h.wipe != nil && h.wipe(id.name)}}, h.opt)}
		h.hosts[id] = s
	}
	s.users++
	return s
}

// release closes what nobody needs any more.
func (h *Host) release(id identity, s *served) {
	h.mu.Lock()
	s.users--
	idle := h.dropIdle(id, s)
	h.mu.Unlock()
	if idle {
		_ = s.end() // it says nothing that matters now
	}
}

// letGo ends what hold began.
func (h *Host) letGo(id identity) {
	h.mu.Lock()
	s := h.hosts[id]
	idle := false
	if s != nil {
		s.held = false
		idle = h.dropIdle(id, s)
	}
	h.mu.Unlock()
	if idle {
		_ = s.end()
	}
}

// dropIdle takes a domain out that nobody needs; the caller holds h.mu, and closes it
// afterwards, which can take a while.
func (h *Host) dropIdle(id identity, s *served) bool {
	if s.users > 0 || s.held {
		return false
	}
	if h.hosts[id] == s {
		delete(h.hosts, id)
	}
	return true
}

// end is close by the last user.
func (s *served) end() error { return errors.Join(s.Host.Close(), s.link.end()) }

func (s *served) close() error { return errors.Join(s.Host.Close(), s.link.close()) }

// domain is one domain, over a connection of its own, which the caller closes.
func (h *Host) domain(id identity) *domain {
	return &domain{identity: id, link: h.link.another(), all: h.link}
}
