package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// libvirt goes on with a call whose caller has gone. A restore that is cut short would leave a
// domain that stands still for good, on its disks. So a call is not left before libvirt has
// answered it: the domain is ended, which ends the call. Where its daemon went away, or fell
// silent, over the call, the domain is looked for by a new connection, and ended.

// errStands: nobody can say that the domain is off.
var errStands = errors.New("it may stand still with its memory")

// endLimit bounds how long a domain may take to end, and libvirt's daemon to come back.
const endLimit = restart + settle

// giveMemory makes a managed save of a memory. The domain is off afterwards, but for errStands.
func (d MemoryDefiner) giveMemory(ctx context.Context, def *domainxml.Domain, path string) error {
	path, err := filepath.Abs(path) // libvirt works in another folder
	if err != nil {
		return err
	}
	id, err := rpc.ParseUUID(def.UUID())
	if err != nil {
		return fmt.Errorf("definition in the restore point: UUID %q: %w", def.UUID(), err)
	}
	if err := writeHead(path, def.String()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, memoryLimit, fmt.Errorf("libvirt takes longer than %v over a memory: %w", memoryLimit, rpc.ErrSilent))
	defer cancel()
	c, err := rpc.Dial(ctx, d.Address, d.RPC)
	if err != nil {
		return err
	}
	l := newLink(d.Address, d.RPC)
	l.met.Store(true) // one that goes away is waited for
	loaded, err := load(ctx, c, l, rpc.Domain{Name: def.Name(), UUID: id}, path)
	_ = c.Close() // it has said what it had to
	// Where libvirt itself refused to load it, the domain is off, or somebody's.
	if _, refused := errors.AsType[*rpc.Error](err); err != nil && (loaded || !refused || errors.Is(err, errLost)) {
		err = takeBack(ctx, l, id, err)
	}
	return errors.Join(err, l.end())
}

// load has libvirt read a memory, and then keep it. l is for a domain that is to end.
func load(ctx context.Context, c *rpc.Conn, l *link, d rpc.Domain, path string) (loaded bool, err error) {
	err = wholly(ctx, l, d.UUID, func(ctx context.Context) error { return c.Restore(ctx, path, "", rpc.SavePaused) })
	err = errors.Join(err, spoil(path)) // if libvirt has not begun yet it does not any more
	if err != nil {
		return false, err
	}
	if ctx.Err() != nil {
		return true, context.Cause(ctx)
	}
	return true, wholly(ctx, l, d.UUID, func(ctx context.Context) error {
		found, err := c.LookupUUID(ctx, d.UUID)
		if err != nil {
			return err
		}
		return c.ManagedSave(ctx, found, rpc.SaveRunning)
	})
}

// wholly makes a call, and returns when libvirt is done with it, or has gone. Where ctx ends
// first the domain is ended.
func wholly(ctx context.Context, l *link, id rpc.UUID, call func(context.Context) error) error {
	whole, stop := context.WithTimeout(context.WithoutCancel(ctx), memoryLimit+endLimit)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- call(whole) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(whole, endLimit)
	defer cancel()
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		_, _ = end(ending, l, id) // what comes of it shows in the call, which may not have begun
		select {
		case err := <-done:
			if err != nil {
				err = errors.Join(context.Cause(ctx), err)
			}
			return err
		case <-again.C:
		case <-ending.Done():
			stop()
			return errors.Join(errLost, context.Cause(ctx), <-done)
		}
	}
}

// spoil makes an image one that libvirt refuses, in libvirt's own way: it was not written whole.
func spoil(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("LibvirtQemudPart"), 0)
	return errors.Join(err, f.Sync(), f.Close())
}

// standing is what became of a domain that was to get a memory.
type standing int

const (
	isOff   standing = iota
	isSaved          // off, and libvirt keeps a memory that is whole
	isPaused
	isRunning // somebody has started it
)

// look tells how a domain stands.
func look(ctx context.Context, c *rpc.Conn, id rpc.UUID) (standing, rpc.Domain, error) {
	found, err := c.LookupUUID(ctx, id)
	if errors.Is(err, snapshot.ErrNotFound) {
		return isOff, found, nil
	}
	if err != nil {
		return 0, found, err
	}
	state, _, err := c.State(ctx, found)
	if err != nil {
		return 0, found, err
	}
	switch {
	case slices.Contains([]rpc.State{rpc.StateRunning, rpc.StateBlocked, rpc.StatePMSuspended}, state):
		return isRunning, found, nil
	case found.ID >= 0 || state != rpc.StateShutoff && state != rpc.StateCrashed:
		return isPaused, found, nil
	}
	saved, err := c.HasManagedSave(ctx, found) // one of a daemon that died in mid-save counts
	if err != nil || !saved {
		return isOff, found, err
	}
	_, err = c.ManagedSaveXML(ctx, found)
	if _, refused := errors.AsType[*rpc.Error](err); refused {
		return isOff, found, nil
	}
	return isSaved, found, err
}

// end ends a domain that stands still, and tells how it stood before.
func end(ctx context.Context, l *link, id rpc.UUID) (was standing, err error) {
	err = l.ask(ctx, func(c *rpc.Conn) error {
		var found rpc.Domain
		if was, found, err = look(ctx, c, id); err != nil || was != isPaused {
			return err
		}
		err = c.Destroy(ctx, found, false)
		if rpc.HasCode(err, rpc.CodeOperationInvalid, rpc.CodeNoDomain) {
			return nil // it has ended by itself
		}
		return err
	})
	return was, err
}

// takeBack sees that a domain does not stand still with a memory that libvirt has not said to
// be kept. cause says why it may; nil: the memory is kept after all.
func takeBack(ctx context.Context, l *link, id rpc.UUID, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		was, err := end(ctx, l, id)
		switch {
		case err != nil || was == isPaused: // look again
		case was == isSaved:
			return nil
		case was == isOff:
			return errors.Join(cause, forgetSave(ctx, l, id))
		default:
			return cause
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return errors.Join(errStands, cause, err)
		}
	}
}

// forgetSave removes what is left of a managed save that was not finished.
func forgetSave(ctx context.Context, l *link, id rpc.UUID) error {
	return l.ask(ctx, func(c *rpc.Conn) error {
		found, err := c.LookupUUID(ctx, id)
		if errors.Is(err, snapshot.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if saved, err := c.HasManagedSave(ctx, found); err != nil || !saved {
			return err
		}
		return c.ManagedSaveRemove(ctx, found)
	})
}
