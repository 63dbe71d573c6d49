package repo

import (
	"context"
	"errors"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// checkTrust reads again what says who may sign and what was forgotten.
func (c *checker) checkTrust(ctx context.Context) error {
	if !c.r.ring.Format().Signed() {
		return nil
	}
	for _, d := range []struct {
		kind   wire.Kind
		prefix string
		roles  Roles
	}{
		{wire.Epoch, epochPrefix, RoleOwner},
		{wire.Revocation, revokedPrefix, RoleMaintain},
		{wire.Tombstone, forgottenPrefix, RoleMaintain},
	} {
		infos, err := list(ctx, c.r.store, d.prefix)
		if err != nil {
			return err
		}
		folder := d.prefix
		if d.kind == wire.Epoch {
			folder = ""
		}
		for _, info := range infos {
			_, _, err := c.r.readDocument(ctx, d.kind, info, folder, d.roles)
			if err := c.problem(info.Name, err); err != nil {
				return err
			}
		}
		c.report.Objects += len(infos)
	}
	return nil
}

// checkKeyFile reads a key file again, and who it says that it is.
func (c *checker) checkKeyFile(ctx context.Context, f blob.Info) error {
	if c.r.ring.Format().Signed() {
		_, err := c.r.readKey(ctx, f)
		if errors.Is(err, errStray) {
			err = nil
		}
		return err
	}
	_, err := readNamed(ctx, c.r.store, f, keys.MaxFile)
	return err
}

// checkChain proves that no restore point is left out.
func (c *checker) checkChain(ctx context.Context) error {
	missing, err := c.r.checkChain(ctx, pointPrefix, c.manifests, c.links)
	if err != nil {
		return err
	}
	for _, m := range missing {
		if err := c.problem("", m); err != nil {
			return err
		}
	}
	return nil
}
