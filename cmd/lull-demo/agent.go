package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/control"
)

// agentProcess is `lull agent --json`. Its events come as lines of JSON.
type agentProcess struct {
	cmd    *exec.Cmd
	log    *os.File
	events chan agent.Event // closed when the process has ended; then err is set
	err    error
	quit   chan struct{}
	once   sync.Once
}

// endLimit is how long the agent may take to stop in good order.
const endLimit = 30 * time.Second

func (d *demo) startAgent() error {
	log, err := os.Create(d.in(agentLog))
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	cmd := exec.Command(d.lull, "--config", d.in(configFile), "--json", "agent")
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is the demo's to handle
	out, err := cmd.StdoutPipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start agent: %w", err), log.Close())
	}
	fmt.Println("   $ lull --config lull.yaml agent &")
	d.agent = &agentProcess{cmd: cmd, log: log, events: make(chan agent.Event), quit: make(chan struct{})}
	go d.agent.listen(out)
	return nil
}

// listen reads events until the agent ends.
func (p *agentProcess) listen(out io.Reader) {
	defer close(p.events)
	lines := json.NewDecoder(bufio.NewReader(out))
	var err error
	for err == nil {
		var e agent.Event
		if err = lines.Decode(&e); err != nil {
			break
		}
		select {
		case p.events <- e:
		case <-p.quit: // nobody listens any more, but the agent must not block
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	_, drain := io.Copy(io.Discard, out)
	p.err = errors.Join(err, drain, p.cmd.Wait(), p.log.Close())
}

// ended waits until the process is gone.
func (p *agentProcess) ended(limit time.Duration) bool {
	p.once.Do(func() { close(p.quit) })
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		select {
		case _, open := <-p.events:
			if !open {
				return true
			}
		case <-timeout.C:
			return false
		}
	}
}

// stop asks the agent to end in good order.
func (p *agentProcess) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop agent: %w", err)
	}
	if !p.ended(endLimit) {
		return fmt.Errorf("stop agent: it still runs after %s", endLimit)
	}
	if p.err != nil {
		return fmt.Errorf("stop agent: %w", p.err)
	}
	return nil
}

// kill ends the agent whatever it does. Safe to call after stop.
func (p *agentProcess) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	if !p.ended(endLimit) {
		_ = p.cmd.Process.Kill()
		p.ended(endLimit)
	}
}

// runLimit is how long the demo waits for a run to begin and to end.
const runLimit = 3 * time.Minute

// watchRun waits for the schedule and shows the run as it goes on.
func (d *demo) watchRun(ctx context.Context) error {
	d.step("Wait for the schedule; the VM goes on writing.")
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	waiting, lastShown := true, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the backup: %w", ctx.Err())
		case <-second.C:
			if waiting && time.Since(lastShown) >= 10*time.Second {
				lastShown = time.Now()
				d.showWaiting(ctx)
			}
		case e, open := <-d.agent.events:
			if !open {
				return fmt.Errorf("wait for the backup: the agent ended: %w", d.agent.err)
			}
			waiting = false
			if done, err := d.hear(e); done || err != nil {
				return err
			}
		}
	}
}

// showWaiting tells when the next run begins, by `lull status --json`.
func (d *demo) showWaiting(ctx context.Context) {
	var status control.Status
	out, err := d.ask(ctx, "status", "--json")
	if err == nil {
		err = json.Unmarshal(out, &status)
	}
	if err != nil || len(status.VMs) == 0 || status.VMs[0].Next.IsZero() {
		return // the agent is still starting; its end would be noticed elsewhere
	}
	vm := status.VMs[0]
	say("%s  %d records are safe; the next backup of %s begins in %.0f s",
		clock(time.Now()), d.acks.last(), vm.VM, time.Until(vm.Next).Seconds())
}

// hear shows one event; done after the last of the run.
func (d *demo) hear(e agent.Event) (done bool, err error) {
	switch e.Step {
	case agent.StepReading:
		d.showReading(e)
	case agent.StepWarning:
		say("%s  warning: %s", clock(e.Time), e.Message)
	case agent.StepFailed:
		return true, fmt.Errorf("backup of %s: %s", e.VM, e.Error)
	case agent.StepDone:
		if e.Result == nil {
			return true, errors.New("the agent's last event has no result")
		}
		d.facts.backup = e.Result.Took
		say("%s  done, after %s; the agent is told to stop", clock(e.Time), seconds(e.Result.Took))
		return true, d.agent.stop()
	default:
		if text := inWords(e.Step); text != "" {
			say("%s  %s (%d records safe)", clock(e.Time), text, d.acks.last())
		}
	}
	return false, nil
}

// showReading shows progress, in steps of a quarter.
func (d *demo) showReading(e agent.Event) {
	if e.Total <= 0 {
		return
	}
	quarter := int(4 * e.Done / e.Total)
	if quarter == d.facts.quarter {
		return
	}
	d.facts.quarter = quarter
	say("%s  reading: %s of %s", clock(e.Time), humanize.IBytes(uint64(e.Done)), humanize.IBytes(uint64(e.Total)))
}

func inWords(s agent.Step) string {
	switch s {
	case agent.StepStarted:
		return "the schedule fires"
	case agent.StepPrepared:
		return "the layers that will take the VM's writes are open"
	case agent.StepFrozen:
		return "the VM's file systems hold still"
	case agent.StepTaken:
		return "both disks are frozen, in one transaction"
	case agent.StepThawed:
		return "the VM writes again"
	case agent.StepRead:
		return "everything is in the repository"
	case agent.StepMerged:
		return "the VM's writes of meanwhile are merged back into its disks"
	case agent.StepCommitted:
		return "the restore point is durable"
	}
	return ""
}

func clock(t time.Time) string { return t.Local().Format("15:04:05.000") }
