package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qemu"
)

var _ snapshot.Comparer = (*Host)(nil)

// Compare holds QEMU's chain, libvirt's two definitions, the files and the journal against each
// other. The plan is of the domain that it was made for, whatever its name is by now; that
// which has its name today is looked at, too.
func (h *Host) Compare(ctx context.Context, vm string, owned *snapshot.Plan) ([]snapshot.Finding, error) {
	var found []snapshot.Finding
	var of identity
	if owned != nil && owned.State != snapshot.StateOff { // else it has made nothing
		of = identityOf(*owned)
		list, err := h.compare(ctx, of, owned)
		if err != nil {
			return nil, err
		}
		found = list
	}
	d, err := h.lookUp(ctx, vm)
	if errors.Is(err, snapshot.ErrNotFound) && owned != nil {
		return found, nil
	}
	if err != nil {
		return nil, fmt.Errorf("compare %s: %w", vm, err)
	}
	if id := (identity{d.UUID, vm}); owned == nil || id.uuid != of.uuid && of != (identity{name: vm}) {
		list, err := h.compare(ctx, id, nil)
		if err != nil {
			return nil, err
		}
		found = append(found, besideThat(list, found)...)
	}
	return found, nil
}

// compare looks at one domain.
func (h *Host) compare(ctx context.Context, id identity, owned *snapshot.Plan) (found []snapshot.Finding, err error) {
	err = h.use(id, func(q *qemu.Host) (err error) {
		found, err = q.Compare(ctx, id.name, owned)
		return err
	})
	for _, f := range found {
		if f.Adopt != nil {
			f.Adopt.Hardware.UUID = id.uuid.String()
		}
	}
	return found, err
}

// besideThat leaves out what has been told of already, of a file of the plan.
func besideThat(list, told []snapshot.Finding) []snapshot.Finding {
	return slices.DeleteFunc(list, func(f snapshot.Finding) bool {
		return f.Path != "" && slices.ContainsFunc(told, func(x snapshot.Finding) bool { return x.Path == f.Path })
	})
}
