package qemu

import (
	"context"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// hardware describes the VM as far as its monitor tells.
func (m *monitor) hardware(ctx context.Context, f found) (snapshot.Hardware, error) {
	hw := snapshot.Hardware{Hypervisor: Kind, Version: m.Version().String(), Firmware: "bios",
		CommandLine: withoutSecrets(m.proc.commandLine())}
	if f.uefi {
		hw.Firmware = "uefi"
	}
	for _, look := range []func(context.Context, *snapshot.Hardware) error{m.identity, m.machine, m.cpus, m.accelerator, m.memory} {
		if err := look(ctx, &hw); err != nil {
			return hw, err
		}
	}
	for _, place := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		devices, err := m.devices(ctx, place)
		if err != nil {
			return hw, err
		}
		hw.Devices = append(hw.Devices, devices...)
	}
	assignDisks(hw.Devices, f)
	return hw, m.seenAs(ctx, hw.Devices)
}

func (m *monitor) identity(ctx context.Context, hw *snapshot.Hardware) error {
	var id struct{ UUID string }
	if err := m.ask(ctx, "query-uuid", nil, &id); err != nil {
		return err
	}
	if strings.Trim(id.UUID, "0-") != "" { // all zeros: none was given
		hw.UUID = id.UUID
	}
	return nil
}

func (m *monitor) machine(ctx context.Context, hw *snapshot.Hardware) error {
	var target struct {
		Arch string `json:"arch"`
	}
	if err := m.ask(ctx, "query-target", nil, &target); err != nil {
		return err
	}
	hw.Arch = target.Arch
	kind, err := m.typeOf(ctx, "/machine")
	hw.Machine = strings.TrimSuffix(kind, "-machine")
	return err
}

// typeOf is the QOM type of an object; empty when it cannot be told.
func (m *monitor) typeOf(ctx context.Context, path string) (string, error) {
	var kind string
	err := m.ask(ctx, "qom-get", args{"path": path, "property": "type"}, &kind)
	return kind, err
}

func (m *monitor) cpus(ctx context.Context, hw *snapshot.Hardware) error {
	var list []struct {
		Path string `json:"qom-path"`
	}
	if err := m.ask(ctx, "query-cpus-fast", nil, &list); err != nil || len(list) == 0 {
		return err
	}
	hw.VCPUs = len(list)
	kind, err := m.typeOf(ctx, list[0].Path)
	hw.CPU = strings.TrimSuffix(kind, "-"+hw.Arch+"-cpu")
	return err
}

// accelerator is what runs the guest's instructions. With KVM a CPU may be the host's.
func (m *monitor) accelerator(ctx context.Context, hw *snapshot.Hardware) error {
	var kvm struct {
		Enabled *bool `json:"enabled"`
	}
	if err := m.ask(ctx, "query-kvm", nil, &kvm); err != nil || kvm.Enabled == nil {
		return err
	}
	hw.Accelerator = "tcg"
	if *kvm.Enabled {
		hw.Accelerator = "kvm"
		if hw.CPU == "host" || hw.CPU == "max" {
			hw.HostCPU = hostCPU()
		}
	}
	return nil
}

func (m *monitor) memory(ctx context.Context, hw *snapshot.Hardware) error {
	var mem struct {
		Base    int64 `json:"base-memory"`
		Plugged int64 `json:"plugged-memory"`
	}
	err := m.ask(ctx, "query-memory-size-summary", nil, &mem)
	hw.Memory = mem.Base + mem.Plugged
	return err
}

// devices lists the devices that were given on the command line or plugged in.
func (m *monitor) devices(ctx context.Context, place string) ([]snapshot.Device, error) {
	var props []struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	if err := m.ask(ctx, "qom-list", args{"path": place}, &props); err != nil {
		return nil, err
	}
	var list []snapshot.Device
	for _, p := range props {
		driver, ok := strings.CutPrefix(p.Type, "child<")
		if !ok {
			continue
		}
		d := snapshot.Device{Driver: strings.TrimSuffix(driver, ">"), Path: place + "/" + p.Name}
		if place == "/machine/peripheral" {
			d.ID = p.Name
		}
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b snapshot.Device) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// assignDisks notes which disk each device serves.
func assignDisks(devices []snapshot.Device, f found) {
	for _, d := range f.disks {
		for i := range devices {
			if serves(devices[i], d.QDev) {
				devices[i].Disk = d.Name
			}
		}
	}
}

func serves(dev snapshot.Device, qdev string) bool {
	return qdev != "" && (qdev == dev.ID || qdev == dev.Path || strings.HasPrefix(qdev, dev.Path+"/"))
}

// smallFiles are the files beside the disks that the VM needs to start.
func (m *monitor) smallFiles(f found) []snapshot.File {
	files := slices.Clone(f.nvram)
	for _, o := range parseOptions(m.proc.commandLine()) {
		role, ok := map[string]snapshot.FileRole{"kernel": snapshot.RoleKernel, "initrd": snapshot.RoleInitrd}[o.name]
		if !ok {
			continue
		}
		path, ok := m.proc.find(o.value)
		if !ok {
			path = o.value // relative to a folder that is not known: File says so
		}
		files = append(files, snapshot.File{Role: role, Path: path})
	}
	return files
}
