package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// smallObjects are a kind of objects that are no packs, index objects or points.
type smallObjects struct {
	prefix string
	prove  func(context.Context, blob.Info) error
	// passing objects are taken back by who made them, at any time.
	passing bool
}

// small are all kinds of small objects. Whoever adds a kind of object to the format
// adds it here: what no check reads may rot unseen.
func (c *checker) small() []smallObjects {
	all := []smallObjects{{prefix: keyPrefix, prove: c.checkKeyFile}}
	if !c.r.ring.Format().Signed() {
		return all
	}
	note := func(k wire.Kind, prefix string, limit int64, passing bool) smallObjects {
		return smallObjects{prefix, func(ctx context.Context, i blob.Info) error {
			var doc json.RawMessage
			return c.r.readJSON(ctx, c.r.store, k, i, limit, &doc)
		}, passing}
	}
	return append(all,
		smallObjects{quarantinePrefix, func(ctx context.Context, i blob.Info) error {
			_, err := c.r.readQuarantine(ctx, i)
			return err
		}, true},
		smallObjects{sessionPrefix, c.checkSession, true},
		note(wire.Mark, markPrefix, maxMark, true),
		smallObjects{leasePrefix, c.checkLease, true},
		note(wire.Hold, holdPrefix, maxNote, true),
	)
}

// checkSession reads an object of a session. Of a key that was removed it is no damage: the
// session is waited for until the grace is over.
func (c *checker) checkSession(ctx context.Context, info blob.Info) error {
	_, _, err := c.r.openSession(ctx, info)
	return objectErr(info.Name, err)
}

// checkLease reads an object of a lease. Under names that no lease has nothing is believed.
func (c *checker) checkLease(ctx context.Context, info blob.Info) error {
	if _, _, ok := leaseNumber(info.Name); !ok {
		return fmt.Errorf("%w: no name of a lease", wire.ErrDamaged)
	}
	var doc leaseDoc
	return c.r.readJSON(ctx, c.r.store, wire.Lease, info, maxNote, &doc)
}

// checkKeys reads the config object, the key files and all other small objects again.
func (c *checker) checkKeys(ctx context.Context) error {
	conf, err := readConfig(ctx, c.r.store)
	if err == nil && string(conf) != string(c.r.config) {
		err = fmt.Errorf("%w: changed since the repository was opened", wire.ErrDamaged)
	}
	if errors.Is(err, ErrNoRepository) {
		err = fmt.Errorf("%w: %w", wire.ErrDamaged, err)
	}
	if err := c.problem(configObject, err); err != nil {
		return err
	}
	c.report.Objects++
	for _, kind := range c.small() {
		if err := c.checkSmall(ctx, kind); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) checkSmall(ctx context.Context, kind smallObjects) error {
	files, err := list(ctx, c.r.store, kind.prefix)
	if err != nil {
		return err
	}
	c.report.Objects += len(files)
	for _, f := range files {
		err := kind.prove(ctx, f)
		if kind.passing && errors.Is(err, blob.ErrNotFound) {
			continue
		}
		if err := c.problem(f.Name, err); err != nil {
			return err
		}
	}
	return nil
}

// unreadable are the quarantines that cannot be read: they only keep sessions from
// trusting anything, and a repair removes them.
func (c *checker) unreadable() (objects []string) {
	for _, q := range c.quarantines {
		if c.bad[q.Name] != nil {
			objects = append(objects, q.Name)
		}
	}
	slices.Sort(objects)
	return objects
}
