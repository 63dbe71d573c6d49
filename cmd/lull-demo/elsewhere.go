package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/guesttest/record"
	"github.com/lull-backup/lull/transport/repo"
)

// accel: nothing here may depend on KVM, which is there on some machines only.
const accel = "tcg,thread=multi"

// bootElsewhere starts the restored VM with the script that lull wrote.
func (d *demo) bootElsewhere(ctx context.Context) error {
	d.step("Boot it there, with the script that the restore wrote.")
	log, err := os.Create(d.in(bootLog))
	if err != nil {
		return fmt.Errorf("boot restored VM: %w", err)
	}
	defer log.Close()
	script := d.in(filepath.Join(restoredDir, "boot.sh"))
	cmd := exec.Command(script)
	cmd.Env = append(os.Environ(), "LULL_ACCEL="+accel)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the script's QEMU ends with it
	fmt.Printf("   $ LULL_ACCEL=%s elsewhere/boot.sh &\n", accel)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("boot restored VM: %w", err)
	}
	d.boot = cmd
	start := time.Now()
	if err := d.waitAgent(ctx); err != nil {
		return err
	}
	d.facts.boot = time.Since(start)
	say("Its guest agent answers after %s.", seconds(d.facts.boot))
	return nil
}

// bootLimit is how long the restored VM may take to answer.
const bootLimit = 2 * time.Minute

// waitAgent waits until the guest's recorder has looked at what is on the disks.
func (d *demo) waitAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := guesttest.Found(ctx, d.restoredAgent())
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the restored VM: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

func (d *demo) restoredAgent() string { return d.in(filepath.Join(restoredDir, "qga.sock")) }

func (d *demo) endBoot() {
	if d.boot == nil {
		return
	}
	_ = syscall.Kill(-d.boot.Process.Pid, syscall.SIGKILL) // it may have ended
	_ = d.boot.Wait()                                      // killed: an error tells nothing
	d.boot = nil
}

// prove asks the restored guest what it found on its disks before it wrote
// anything, and holds it against what was safe when the snapshot was taken.
func (d *demo) prove(ctx context.Context) error {
	d.step("Prove from inside that nothing is missing.")
	found, err := guesttest.Found(ctx, d.restoredAgent())
	if err != nil {
		return err
	}
	point, err := d.point(ctx)
	if err != nil {
		return err
	}
	d.facts.point = point
	d.facts.safe = d.acks.before(point.Frozen)
	d.facts.found = found.Last()
	if err := judge(found, d.facts.safe, d.facts.lastEver); err != nil {
		return err
	}
	for _, l := range found.Logs {
		say("%s: records %d to %d, no gap, none torn", l.Path, l.First, l.Last)
	}
	say("Before the freeze, record %d was the last known to be safe: it is there, and all before it.", d.facts.safe)
	say("The two disks end with records %d and %d: they show one instant.", found.Logs[0].Last, found.Logs[1].Last)
	say("Lost are only the %d records that were written after the snapshot.", d.facts.lastEver-d.facts.found)
	return nil
}

// judge is the proof itself.
func judge(found record.Report, safe, lastEver uint64) error {
	if err := found.Err(); err != nil {
		return err
	}
	if len(found.Logs) != 2 {
		return fmt.Errorf("the restored VM has %d disks with records, want 2", len(found.Logs))
	}
	if safe == 0 {
		return errors.New("no record was known to be safe before the freeze: the proof would be empty")
	}
	for _, l := range found.Logs {
		switch {
		case l.Torn != 0:
			return fmt.Errorf("%s: %d records are torn", l.Path, l.Torn)
		case l.First != 1:
			return fmt.Errorf("%s begins with record %d, want 1", l.Path, l.First)
		case l.Last < safe:
			return fmt.Errorf("%s ends with record %d, but %d was safe before the freeze", l.Path, l.Last, safe)
		case l.Last >= lastEver:
			return fmt.Errorf("%s ends with record %d, which was written after the snapshot", l.Path, l.Last)
		}
	}
	return nil
}

// point is the restore point that the run made.
func (d *demo) point(ctx context.Context) (repo.Point, error) {
	out, err := d.ask(ctx, "points", "lab/web", "--json")
	if err != nil {
		return repo.Point{}, err
	}
	var list struct {
		Points []repo.Point `json:"points"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return repo.Point{}, fmt.Errorf("read restore points: %w", err)
	}
	if len(list.Points) == 0 {
		return repo.Point{}, errors.New("read restore points: there is none")
	}
	return list.Points[len(list.Points)-1], nil
}
