package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/repo"
)

// restoreFlags are those of `lull restore` alone.
type restoreFlags struct {
	to         string
	force      bool
	bestEffort bool
	cold       bool
	alone      bool // no writer is asked
	format     string
	domain     domainFlags
}

// domainFlags say as what a VM is defined in libvirt.
type domainFlags struct {
	where   string // a host of the configuration, or a URI; empty: it is not
	as      string
	replace bool
}

func (in *invocation) restoreCommand() *cobra.Command {
	var flags restoreFlags
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "restore VM[@POINT] --to DIR",
		Short: "Write a restore point back into a folder",
		Long: "Write every disk of a restore point into a folder, under its own file name, with\n" +
			"what is needed to start the VM there.\n\n" +
			"POINT is an id, the start of one, \"latest\" (the default), or the start of a local\n" +
			"time: 2026-11-20 is the last point of that day. With Z or an offset such as +01:00 at\n" +
			"its end it is the time there.",
		Example: "  lull restore lab/web --to /srv/restored\n" +
			"  lull restore kvm/web --to /srv/restored --define kvm --as web2\n" +
			"  lull restore web@2026-11-20 --repo /srv/backup --to /tmp/web --disk-format raw",
		Args: argCount(1, 1, "the VM"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error { return in.restore(cmd.Context(), args[0], flags) }),
	})
	f := cmd.Flags()
	f.StringVar(&flags.to, "to", "", "folder `DIR` to restore into; made when missing")
	f.BoolVar(&flags.force, "force", false, "replace files that are there")
	f.BoolVar(&flags.bestEffort, "best-effort", false, "go on past what is damaged; a disk with holes gets the ending .incomplete")
	f.BoolVar(&flags.cold, "cold", false, "leave a saved memory away: the VM starts from its disks alone")
	f.BoolVar(&flags.alone, "without-writers", false, "do not tell the writers that took part in the restore point")
	f.StringVar(&flags.format, "disk-format", "", "`FORMAT` of the restored disks, raw or qcow2 (default: as they were; raw for formats that lull does not write)")
	f.StringVar(&flags.domain.where, "define", "", "define the VM in libvirt: `HOST` of the configuration, or a URI such as qemu:///system")
	f.StringVar(&flags.domain.as, "as", "", "with --define: as another VM of this `NAME`, with a UUID and addresses of its own (default: as the same)")
	f.BoolVar(&flags.domain.replace, "replace-vm", false, "with --define: give the VM that is there, and off, the restored disks")
	return cmd
}

func (in *invocation) restore(ctx context.Context, what string, flags restoreFlags) error {
	if err := flags.check(); err != nil {
		return err
	}
	format, err := diskFormat(flags.format)
	if err != nil {
		return err
	}
	vm, which, _ := strings.Cut(what, "@")
	if vm == "" {
		return usagef("restore %s: the VM's name is missing", what)
	}
	t, err := in.target()
	if err != nil {
		return err
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		point, err := in.pointToRestore(ctx, r, vm, which)
		if err != nil {
			return fmt.Errorf("restore %s: %w", what, err)
		}
		job := agent.RestoreJob{
			Repository: r, Point: point, Dir: flags.to, Format: format, Overwrite: flags.force, BestEffort: flags.bestEffort,
			Cold: flags.cold,
		}
		job.Wipe = t.config != nil && t.config.WipesDeltas(point.VM)
		if t.config != nil && !flags.alone {
			job.Writer = in.restoreWriter(t.config)
		}
		if flags.domain.where != "" {
			if job.Definer, err = in.domainDefiner(t.config, flags.domain, point); err != nil {
				return err
			}
			if !flags.cold {
				in.warnOfMemory(point, job.Definer, flags.domain)
			}
		}
		return in.restorePoint(ctx, job)
	})
}

// check refuses flags that do not go together.
func (f restoreFlags) check() error {
	switch d := f.domain; {
	case f.to == "":
		return withHint(usagef("restore: --to is missing"), "name the folder to restore into: --to DIR")
	case f.bestEffort && f.force:
		return withHint(usagef("restore: --best-effort and --force exclude each other"), "restore into another folder")
	case d.where == "" && (d.as != "" || d.replace), d.as != "" && d.replace:
		return withHint(usagef("restore: --as and --replace-vm go with --define, one of them"), "name libvirt's host: --define HOST")
	}
	return nil
}

// pointToRestore finds the point that was asked for, in the words of choosePoint.
func (in *invocation) pointToRestore(ctx context.Context, r *repo.Repository, vm, which string) (repo.Point, error) {
	points, damage := pointsOf(ctx, r, vm)
	if damage != nil && (len(points) == 0 || !partial(damage)) {
		return repo.Point{}, damage
	}
	point, err := choosePoint(points, which)
	if err != nil {
		return repo.Point{}, errors.Join(err, damage)
	}
	if damage != nil && point.ID != which {
		// A damaged one may be newer. Nobody is to take another for it unawares.
		return repo.Point{}, withHint(damage, "name the restore point by its whole id: %s is the newest that can be read", point.ID)
	}
	if signers := agent.Signers(points); len(signers) > 1 && point.ID != which {
		in.warn("restore point %s is of key %s, and %s has restore points of %s; name another by its id if this is not the one that you want, see `lull points %s`",
			point.ID, agent.MadeBy(&point), point.VM, strings.Join(signers, ", "), point.VM)
	}
	return point, nil
}

func (in *invocation) restorePoint(ctx context.Context, job agent.RestoreJob) error {
	story := in.newStory("restore")
	defer story.close()
	job.Images, job.Observe, job.Now = diskImages(job.Wipe), story.hear, time.Now
	if job.Definer == nil {
		job.Definer = definer()
	}
	in.note("restore %s as of %s (%s) into %s", job.Point.VM, moment(job.Point.Frozen), job.Point.ID, job.Dir)
	res, err := agent.Restore(ctx, job)
	story.close()
	if err != nil {
		return err
	}
	in.warnIncomplete(res)
	in.warnDecrypted(res)
	if len(res.Warnings) > 0 { // the story has told them
		in.code = worse(in.code, exitWarnings)
	}
	if in.flags.json {
		return in.line(eventLine{
			Event:    agent.Event{Time: time.Now(), VM: res.VM, Step: agent.StepDone},
			Restored: &res,
		})
	}
	if in.flags.quiet {
		return nil
	}
	return restoreTable(job.Point, res).write(in.Stdout)
}

// warnOfMemory says what a domain does not get back.
func (in *invocation) warnOfMemory(p repo.Point, d snapshot.Definer, flags domainFlags) {
	_, takes := d.(snapshot.StateDefiner)
	if takes || !slices.ContainsFunc(p.Files, func(f repo.File) bool { return f.Role == snapshot.RoleSavedState }) {
		return
	}
	if flags.as != "" {
		in.warn("the saved memory is left away: as another VM %s starts from its disks, for its memory holds the addresses of the first", flags.as)
		return
	}
	in.warn("the saved memory is left away, as it is not that of a domain of libvirt: the VM starts from its disks; without --define boot.sh brings it back running")
}

// warnDecrypted says which disks lie here in the clear that did not where they came from,
// and how each is encrypted again.
func (in *invocation) warnDecrypted(res agent.RestoreResult) {
	for _, d := range res.Disks {
		if d.Decrypted {
			in.warn("disk %s was encrypted by QEMU, and %s is not; to encrypt it: %s, where KEYFILE holds the key", d.Name, d.Path, encryptCommand(d))
		}
	}
}

// encryptCommand makes an encrypted image of a restored one. SHA-256, which QEMU takes
// otherwise, can be too fast for QEMU 7.2 to measure how fast it is.
func encryptCommand(d snapshot.RestoredDisk) string {
	return fmt.Sprintf("qemu-img convert --object secret,id=key,file=KEYFILE -f %s -O qcow2 -o encrypt.format=luks,encrypt.key-secret=key,encrypt.hash-alg=sha512 %s %s",
		d.Format, snapshot.ShellWord(d.Path), snapshot.ShellWord(d.Path+".luks"))
}

// warnIncomplete says what a best-effort restore could not bring back.
func (in *invocation) warnIncomplete(res agent.RestoreResult) {
	for _, i := range res.Incomplete {
		in.code = worse(in.code, exitWarnings)
		if i.Path == "" {
			in.warn("%s file: left out, it cannot be read: %s", i.Role, i.Holes[0].Err)
			continue
		}
		in.warn("disk %s: %s lost in %s, listed in %s; once you have looked at it, drop the ending of %s to start the VM",
			i.Disk, size(i.Lost), count(len(i.Holes), "range"), i.List, i.Path)
	}
}

func restoreTable(p repo.Point, res agent.RestoreResult) *table {
	t := newTable("WHAT", "FILE", "FORMAT", "SIZE")
	sizes := map[string]int64{}
	for _, d := range p.Disks {
		sizes[d.Name] = d.Root.Size
	}
	for _, d := range res.Disks {
		t.add("disk "+d.Name, d.Path, string(d.Format), size(sizes[d.Name]))
	}
	for _, i := range res.Incomplete {
		t.add("not whole", i.Path, "", size(i.Size)+", "+size(i.Lost)+" lost")
	}
	for _, f := range res.Files {
		t.add(string(f.Role), f.Now, "", "")
	}
	for _, s := range res.Start {
		t.add("start", s, "", "")
	}
	t.add("in all", took(res.Took), "", size(res.Bytes)+" written")
	return t
}

// diskFormat reads the value of --disk-format; empty stays empty.
func diskFormat(s string) (snapshot.Format, error) {
	if f := snapshot.Format(s); f == "" || f.Written() {
		return f, nil
	}
	return "", withHint(usagef("--disk-format %s: unknown format", s), "use raw or qcow2")
}
