package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
)

func (in *invocation) vmsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "vms",
		Short: "List the virtual machines of the configuration and how they are",
		Args:  argCount(0, 0, ""),
		RunE:  in.run(func(cmd *cobra.Command, _ []string) error { return in.listVMs(cmd.Context()) }),
	}
}

// listedVM is one VM as --json shows it.
type listedVM struct {
	Host string `json:"host"`
	snapshot.VM
	Groups []string `json:"groups,omitempty"`
}

// listVMs shows every VM, those that do not answer with their problem. A host
// that fails as a whole is an error, but the others are shown all the same.
func (in *invocation) listVMs(ctx context.Context) error {
	cfg, err := in.loadConfig()
	if err != nil {
		return err
	}
	hosts := in.openHosts(cfg)
	cfg, _ = in.discover(ctx, cfg, hosts) // a host that does not answer says so below
	list := []listedVM{}
	for _, h := range cfg.Hosts {
		vms, err := hosts[h.Name].VMs(ctx)
		if err != nil {
			in.fail(fmt.Errorf("host %s: %w", h.Name, err))
		}
		for _, vm := range vms {
			if h.Libvirt != nil && vm.Problem == "" && !config.ValidVM(vm.Name) {
				vm.Problem = "lull cannot back up a VM of this name: rename it with virsh domrename"
			}
			list = append(list, listedVM{Host: h.Name, VM: vm, Groups: groupNames(cfg, h.Name+"/"+vm.Name)})
		}
	}
	if in.flags.json {
		return writeJSON(in.Stdout, map[string]any{"vms": list})
	}
	return vmTable(list).write(in.Stdout)
}

func groupNames(cfg *config.Config, vm string) []string {
	var names []string
	for _, g := range cfg.GroupsOf(vm) {
		names = append(names, g.Name)
	}
	return names
}

func vmTable(list []listedVM) *table {
	t := newTable("VM", "STATE", "DISKS", "SIZE", "GUEST AGENT", "GROUPS", "PROBLEM")
	for _, vm := range list {
		var total int64
		for _, d := range vm.Disks {
			total += d.Size
		}
		guest := "no"
		if vm.Guest {
			guest = "yes"
		}
		t.add(vm.Host+"/"+vm.Name, string(vm.State), fmt.Sprint(len(vm.Disks)), size(total), guest,
			join(vm.Groups), vm.Problem)
	}
	return t
}
