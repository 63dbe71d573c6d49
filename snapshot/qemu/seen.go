package qemu

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
)

// seenAs notes by what the guest knows its devices: their places on the PCI bus, as the
// guest's firmware or kernel has numbered that, and the serial numbers of disks.
func (m *monitor) seenAs(ctx context.Context, devices []snapshot.Device) error {
	var buses []pciBus
	if err := m.ask(ctx, "query-pci", nil, &buses); err != nil {
		return err
	}
	places := map[string]string{}
	for _, b := range buses {
		b.places(places, maxBridges)
	}
	for i := range devices {
		d := &devices[i]
		if d.ID != "" {
			d.Address = places[d.ID]
		}
		if d.Disk == "" {
			continue
		}
		if err := m.ask(ctx, "qom-get", args{"path": d.Path, "property": "serial"}, &d.Serial); err != nil {
			return err
		}
	}
	return nil
}

// maxBridges bounds how many bridges lie one behind the other.
const maxBridges = 32

// pciBus is a bus, as query-pci shows it.
type pciBus struct {
	Devices []struct {
		ID       string  `json:"qdev_id"`
		Bus      int     `json:"bus"`
		Slot     int     `json:"slot"`
		Function int     `json:"function"`
		Bridge   *pciBus `json:"pci_bridge"`
	} `json:"devices"`
}

// places adds the addresses of devices that have ids.
func (b *pciBus) places(all map[string]string, depth int) {
	for _, d := range b.Devices {
		if d.ID != "" {
			all[d.ID] = fmt.Sprintf("0000:%02x:%02x.%x", d.Bus, d.Slot, d.Function)
		}
		if d.Bridge != nil && depth > 0 {
			d.Bridge.places(all, depth-1)
		}
	}
}
