package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent/control"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/config"
)

func (in *invocation) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what the agent does, how the last backups ended and when the next begin",
		Long: "Show what the agent does, how the last backup of every VM ended and when the next\n" +
			"one begins. Without a running agent it says so and shows what is on record.",
		Args: argCount(0, 0, ""),
		RunE: in.run(func(cmd *cobra.Command, _ []string) error { return in.status(cmd.Context()) }),
	}
}

// statusResult is the status as --json shows it.
type statusResult struct {
	Running bool `json:"running"` // an agent answered
	control.Status
}

func (in *invocation) status(ctx context.Context) error {
	cfg, err := in.loadConfig()
	if err != nil {
		return err
	}
	res := statusResult{Running: true}
	res.Status, err = askAgent(ctx, cfg.Agent.Socket)
	if errors.Is(err, control.ErrNotRunning) {
		res.Running = false
		res.Status, err = in.recordedStatus(ctx, cfg, time.Now())
	}
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if in.flags.json {
		return writeJSON(in.Stdout, res)
	}
	return in.showStatus(cfg, res)
}

// recordedStatus is what can be said without an agent.
func (in *invocation) recordedStatus(ctx context.Context, cfg *config.Config, now time.Time) (control.Status, error) {
	state, err := in.openJournal(cfg)
	if err != nil {
		return control.Status{}, err
	}
	if cfg, err = in.discover(ctx, cfg, in.openHosts(cfg)); err != nil {
		in.warn("the VMs of a host are not known: %v", err)
	}
	s := control.Status{Runs: []control.RunStatus{}, VMs: []control.VMStatus{}}
	if s.Repairs, err = owed(state); err != nil {
		return s, err
	}
	for _, g := range cfg.Groups {
		for _, vm := range g.VMs {
			last, err := state.Last(vm)
			if err != nil {
				return s, err
			}
			s.VMs = append(s.VMs, control.VMStatus{
				VM: vm, Group: g.Name, LastStart: last.Start, LastSuccess: last.Success,
				LastError: last.Error, LastPoint: last.Point, LastLevel: last.Level,
				LastWarned: last.Warned, LastWarnings: last.Warnings, LastTracking: last.Tracking, Next: g.Schedule.Next(now),
			})
		}
	}
	return s, nil
}

// owed is what runs that nobody carries on have left to repair.
func owed(state *journal.Journal) ([]control.RepairStatus, error) {
	entries, err := state.Pending()
	if err != nil {
		return nil, err
	}
	var list []control.RepairStatus
	for _, e := range entries {
		lock, err := state.Lock(e.VM)
		if errors.Is(err, journal.ErrLocked) {
			continue // its run lives
		}
		if err != nil {
			return nil, err
		}
		lock.Unlock()
		list = append(list, control.RepairStatus{VM: e.VM, Run: e.Run, Since: e.Started})
	}
	return list, nil
}

// askAgent asks the agent that serves the socket.
func askAgent(ctx context.Context, socket string) (control.Status, error) {
	client, err := control.Dial(socket)
	if err != nil {
		return control.Status{}, err
	}
	defer client.Close()
	return client.Status(ctx)
}

func (in *invocation) showStatus(cfg *config.Config, res statusResult) error {
	head := fmt.Sprintf("agent: not running (nobody answers at %s); nothing starts by itself", cfg.Agent.Socket)
	if res.Running {
		head = fmt.Sprintf("agent: running since %s, process %d, lull %s", moment(res.Started), res.PID, printable(res.Version))
	}
	if _, err := fmt.Fprintln(in.Stdout, head); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	if len(res.Runs) > 0 {
		if err := runTable(res.Runs).write(in.Stdout); err != nil {
			return err
		}
	}
	if len(res.Repairs) > 0 {
		if err := repairTable(res.Repairs).write(in.Stdout); err != nil {
			return err
		}
	}
	if len(res.Found) > 0 {
		if err := findingTable(res.Found).write(in.Stdout); err != nil {
			return err
		}
	}
	if err := vmStatusTable(res.VMs).write(in.Stdout); err != nil {
		return err
	}
	for _, t := range []*table{warningTable(res.VMs), trackingTable(res.VMs), upkeepTable(res.Upkeep), silentTable(res.Groups)} {
		if len(t.rows) > 1 {
			if err := t.write(in.Stdout); err != nil {
				return err
			}
		}
	}
	return nil
}

// upkeepTable names the repositories whose maintenance failed.
func upkeepTable(all []control.UpkeepStatus) *table {
	t := newTable("MAINTENANCE FAILED", "AT", "NEXT", "WHY")
	for _, u := range all {
		if u.LastError != "" {
			t.add(u.Repository, moment(u.LastStart), moment(u.Next), strings.ReplaceAll(u.LastError, "\n", "; "))
		}
	}
	return t
}

// silentTable names the groups that may have VMs of which the agent does not know.
func silentTable(all []control.GroupTrouble) *table {
	t := newTable("GROUP WITHOUT ALL ITS VMS", "WHY")
	for _, g := range all {
		t.add(g.Group, strings.ReplaceAll(g.LastError, "\n", "; "))
	}
	return t
}

// trackingTable says what was read of the VMs whose hosts track changes.
func trackingTable(vms []control.VMStatus) *table {
	t := newTable("READ", "FOR THE LAST POINT")
	for _, v := range onceEach(vms) {
		if v.LastTracking != "" {
			t.add(v.VM, v.LastTracking)
		}
	}
	return t
}

// findingTable shows what should not be there.
func findingTable(list []control.Finding) *table {
	t := newTable("FOUND", "KIND", "WHAT", "NEXT")
	for _, f := range list {
		t.add(f.VM, f.Kind, f.Text, f.Next)
	}
	return t
}

// onceEach names a VM in several groups once.
func onceEach(vms []control.VMStatus) []control.VMStatus {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(vms), func(v control.VMStatus) bool {
		before := seen[v.VM]
		seen[v.VM] = true
		return before
	})
}

func repairTable(list []control.RepairStatus) *table {
	t := newTable("TO REPAIR", "SINCE", "TRIES", "NEXT TRY", "LAST ERROR")
	for _, r := range list {
		next := moment(r.Next)
		if r.Next.IsZero() {
			next = "with the agent, or the VM's next backup"
		}
		t.add(r.VM, moment(r.Since), strconv.Itoa(r.Tries), next, r.LastError)
	}
	return t
}

func runTable(runs []control.RunStatus) *table {
	t := newTable("RUNNING", "GROUP", "SINCE", "STEP", "DONE")
	for _, r := range runs {
		var done []string
		if r.Total > 0 {
			done = append(done, fmt.Sprintf("%s of %s", size(r.Done), size(r.Total)))
		}
		for _, w := range r.Writers {
			done = append(done, w.Writer+" "+writerWord(w.What, w.Done, w.Total))
		}
		t.add(r.VM, r.Group, moment(r.Since), r.Step, strings.Join(done, "; "))
	}
	return t
}

func vmStatusTable(vms []control.VMStatus) *table {
	t := newTable("VM", "GROUP", "LAST GOOD", "LAST POINT", "LEVEL", "WARNINGS", "NEXT", "LAST ERROR")
	for _, v := range vms {
		warned := ""
		if v.LastWarned > 0 {
			warned = strconv.Itoa(v.LastWarned)
		}
		t.add(v.VM, v.Group, moment(v.LastSuccess), v.LastPoint, v.LastLevel, warned, moment(v.Next), v.LastError)
	}
	return t
}

// warningTable says what the last points lack.
func warningTable(vms []control.VMStatus) *table {
	t := newTable("WARNED", "OF THE LAST POINT")
	for _, v := range onceEach(vms) {
		for _, w := range v.LastWarnings {
			t.add(v.VM, w)
		}
		if more := v.LastWarned - len(v.LastWarnings); more > 0 && len(v.LastWarnings) > 0 {
			t.add(v.VM, fmt.Sprintf("and %d more", more))
		}
	}
	return t
}
