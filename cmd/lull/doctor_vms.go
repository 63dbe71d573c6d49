package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
)

// guestPatience is how long the doctor waits for a guest's agent.
const guestPatience = 5 * time.Second

// doctorVMs looks at the VMs of a configuration: is anything of an earlier run left in
// their chains, beside their disks, in QEMU, in the journal or in the guest?
func (in *invocation) doctorVMs(ctx context.Context, cfg *config.Config) ([]diagnosis, error) {
	state, err := in.openJournal(cfg)
	if err != nil {
		return nil, err
	}
	hosts := in.openHosts(cfg)
	d := &vmDoctor{
		runner:  &agent.Runner{Journal: state, Log: in.logger(slog.LevelWarn), Version: in.Version, Now: time.Now},
		resolve: resolver(cfg, hosts),
		limits:  cfg.Checkpoints,
	}
	for _, h := range cfg.Hosts {
		if h.Libvirt != nil {
			d.libvirt(ctx, "host "+h.Name, hosts[h.Name])
		}
	}
	cfg, _ = in.discover(ctx, cfg, hosts) // one that does not answer has said so
	names := cfg.Match("*")
	for _, name := range names {
		d.look(ctx, name)
		if ctx.Err() != nil {
			return d.found, ctx.Err()
		}
	}
	entries, err := state.Pending()
	if err != nil {
		d.add("journal", "read", resultFailed, plainError(err), hintOf(err))
	}
	for _, e := range entries {
		switch {
		case slices.Contains(names, e.VM):
		case tellsOfVMs(d.resolve, e.VM):
			d.add("VM "+e.VM, "journal", resultFailed, fmt.Sprintf("run %s was cut off, and no VM has that name any more", e.Run),
				"merge what the run left, wherever the VM is: lull recover "+e.VM)
		default:
			d.add("VM "+e.VM, "journal", resultFailed, fmt.Sprintf("run %s was cut off, and the VM is not in %s", e.Run, cfg.Path),
				"put the VM back into the configuration until what the run left of it is merged")
		}
	}
	return d.found, nil
}

// vmDoctor collects what is found of VMs.
type vmDoctor struct {
	runner  *agent.Runner
	resolve agent.Resolve
	limits  config.Checkpoints
	found   []diagnosis
}

func (d *vmDoctor) add(subject, check, result, detail, hint string) {
	d.found = append(d.found, diagnosis{Subject: subject, Check: check, Result: result, Detail: detail, Hint: hint})
}

// libvirt looks whether a daemon gives lull what it needs, and which of its domains cannot be
// backed up.
func (d *vmDoctor) libvirt(ctx context.Context, subject string, host snapshot.Host) {
	versions, lacks, err := libvirtNeeds(ctx, host)
	if err != nil {
		d.add(subject, "reach", resultFailed, plainError(err), hintOf(err))
		return
	}
	d.add(subject, "reach", resultOK, versions, "")
	for _, lack := range lacks {
		d.add(subject, "needs", resultWarning, plainError(lack), hintOf(lack))
	}
	if len(lacks) == 0 {
		d.add(subject, "needs", resultOK, "all is there", "")
	}
	vms, err := host.VMs(ctx)
	if err != nil {
		d.add(subject, "domains", resultFailed, plainError(err), hintOf(err))
		return
	}
	for _, vm := range vms {
		switch {
		case vm.Problem != "":
			d.add(subject, "domain "+vm.Name, resultWarning, vm.Problem, "")
		case !config.ValidVM(vm.Name):
			d.add(subject, "domain "+vm.Name, resultWarning, "lull cannot back up a VM of this name", "rename it with virsh domrename")
		}
	}
	d.add(subject, "domains", resultOK, count(len(vms), "domain"), "")
	d.lostTrees(ctx, subject, host)
}

// lostTrees tells of checkpoints whose domains are not there any more.
func (d *vmDoctor) lostTrees(ctx context.Context, subject string, host snapshot.Host) {
	h, ok := host.(snapshot.TreeLoser)
	if !ok {
		return
	}
	lost, err := h.LostTrees(ctx)
	if err != nil {
		d.add(subject, "checkpoints", resultUnknown, plainError(err), hintOf(err))
	}
	for _, t := range lost {
		detail := fmt.Sprintf("%s is the tree of checkpoints of a domain that libvirt does not have any more, with %s", t.Path, count(len(t.Files), "file"))
		hint := "define the domain again with that UUID; or, where its disks are given up, too, remove their files and then the tree"
		if t.Err != nil {
			detail += ": " + plainError(t.Err)
		} else if len(t.Files) > 0 {
			hint += " (" + strings.Join(t.Files[:min(len(t.Files), fewFiles)], ", ")
			if len(t.Files) > fewFiles {
				hint += ", ..."
			}
			hint += ")"
		}
		d.found = append(d.found, diagnosis{Subject: subject, Check: "checkpoints", Result: resultWarning, Detail: detail, Hint: hint, Path: t.Path})
	}
}

// fewFiles is how many files a hint names.
const fewFiles = 8

func (d *vmDoctor) look(ctx context.Context, name string) {
	subject := "VM " + name
	found, busy, err := d.runner.Look(ctx, name, d.resolve)
	switch {
	case err != nil && errors.Is(err, snapshot.ErrUnreachable):
		d.add(subject, "leftovers", resultUnknown, plainError(err), hintOf(err))
		return
	case err != nil:
		d.add(subject, "leftovers", resultFailed, plainError(err), hintOf(err))
		return
	case busy:
		d.add(subject, "leftovers", resultUnknown, "a run is under way, which looks itself", "")
		return
	}
	for _, f := range found {
		hint := f.Next
		if f.Adopt != nil {
			hint = "merge it: lull recover " + name
		}
		d.found = append(d.found, diagnosis{Subject: subject, Check: string(f.Kind), Result: weight(f), Detail: f.Text, Hint: hint, Path: f.Path})
	}
	switch {
	case !d.compares(name):
		d.journalAlone(name)
	case len(found) == 0:
		d.add(subject, "leftovers", resultOK, "none", "")
	}
	d.checkpoints(ctx, name)
	d.guest(ctx, name)
}

// compares tells whether the host of a VM leaves anything that it could look for.
func (d *vmDoctor) compares(name string) bool {
	host, _, err := d.resolve(name)
	_, ok := host.(snapshot.Comparer)
	return err == nil && ok
}

// journalAlone tells of a VM on whose host a run leaves nothing, such as one of images.
func (d *vmDoctor) journalAlone(name string) {
	e, owed, err := d.runner.Journal.Read(name)
	switch {
	case err != nil:
		d.add("VM "+name, "journal", resultFailed, plainError(err), hintOf(err))
	case owed:
		d.add("VM "+name, string(snapshot.FindingOwed), resultWarning, fmt.Sprintf("run %s was cut off", e.Run), "let lull merge: lull recover "+name)
	default:
		d.add("VM "+name, "leftovers", resultOK, "none", "")
	}
}

// checkpoints tells of files that no tree of checkpoints owns, or that one lacks, and of
// checkpoints that should go.
func (d *vmDoctor) checkpoints(ctx context.Context, name string) {
	host, vm, err := d.resolve(name)
	c, ok := host.(snapshot.Checkpointer)
	if err != nil || !ok {
		return
	}
	tree, err := c.Checkpoints(ctx, vm)
	if errors.Is(err, snapshot.ErrUnsupported) {
		return
	}
	subject := "VM " + name
	if err != nil {
		d.add(subject, "checkpoints", resultUnknown, plainError(err), hintOf(err))
		return
	}
	for _, w := range beyondLimits(d.limits, tree, d.runner.Now()) {
		d.add(subject, "checkpoints", resultWarning, w, "delete what is not needed: lull checkpoint delete "+name)
	}
	for _, path := range tree.Unowned {
		d.found = append(d.found, diagnosis{Subject: subject, Check: "checkpoints", Result: resultWarning, Path: path,
			Detail: path + " looks like a checkpoint's, and no tree owns it", Hint: "look what it is, then rm " + snapshot.ShellWord(path)})
	}
	for _, path := range tree.Astray {
		d.found = append(d.found, diagnosis{Subject: subject, Check: "checkpoints", Result: resultFailed, Path: path,
			Detail: "the VM's disks rest upon " + path + ", and its tree of checkpoints does not have that",
			Hint:   "remove nothing; give the VM the UUID, its host the name, and state_dir the content that they had when the checkpoint was made"})
	}
	for _, path := range tree.Missing {
		d.found = append(d.found, diagnosis{Subject: subject, Check: "checkpoints", Result: resultFailed, Path: path,
			Detail: path + " is missing, and a checkpoint rests upon it", Hint: "bring it back, or restore a point of the VM"})
	}
	if tree.Pending != "" {
		d.add(subject, "checkpoints", resultWarning, "an operation was interrupted: "+tree.Pending, "finish it: lull recover "+name)
	}
}

// weight is how bad a finding is: what lull merges by itself, or what holds no data, is
// no disease.
func weight(f snapshot.Finding) string {
	if f.Kind == snapshot.FindingOwed || !f.Blocks() {
		return resultWarning
	}
	return resultFailed
}

// guest asks the guest whether it holds still, although nobody asks it to.
func (d *vmDoctor) guest(ctx context.Context, name string) {
	host, vm, err := d.resolve(name)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, guestPatience)
	defer cancel()
	guest, err := host.Guest(ctx, vm)
	if errors.Is(err, snapshot.ErrNoGuest) {
		return
	}
	var frozen bool
	if err == nil {
		defer guest.Close()
		frozen, err = guest.FilesystemsFrozen(ctx)
	}
	switch {
	case err != nil:
		d.add("VM "+name, "guest", resultUnknown, plainError(err), hintOf(err))
	case frozen:
		d.add("VM "+name, "guest", resultFailed, "its file systems are frozen, and no run is under way",
			"thaw it: lull recover "+name+", or guest-fsfreeze-thaw on its agent")
	default:
		d.add("VM "+name, "guest", resultOK, "its file systems are not frozen", "")
	}
}
