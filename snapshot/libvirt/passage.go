package libvirt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// passage is the road to the monitor of a domain's QEMU through libvirt, which passes
// commands on as they are. It outlives a restart of libvirt's daemon. It implements
// qmp.Monitor.
type passage struct {
	qmp.Hub
	domain  *domain
	of      rpc.Domain
	pid     int
	version qmp.Version

	stop context.CancelFunc
	work sync.WaitGroup
	done chan struct{} // closed when QEMU has ended, or Close was called
}

var _ qmp.Monitor = (*passage)(nil)

// pass makes a passage.
func (d *domain) pass(ctx context.Context, found rpc.Domain, pid int) (*passage, error) {
	p := &passage{domain: d, of: found, pid: pid, done: make(chan struct{})}
	listening, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = stop
	var v struct {
		QEMU qmp.Version `json:"qemu"`
	}
	if err := p.Execute(ctx, "query-version", nil, &v); err != nil {
		stop()
		return nil, err
	}
	p.version = v.QEMU
	ready := make(chan struct{})
	p.work.Go(func() { p.listen(listening, ready) })
	<-ready
	return p, nil
}

// Version of the QEMU.
func (p *passage) Version() qmp.Version { return p.version }

// Done is closed when QEMU has ended.
func (p *passage) Done() <-chan struct{} { return p.done }

// Close lets go of the passage.
func (p *passage) Close() error {
	p.stop()
	p.work.Wait()
	return nil
}

// Execute sends a command. One that only asks is asked again after a restart of libvirt.
func (p *passage) Execute(ctx context.Context, command string, args, result any) error {
	return p.execute(ctx, command, args, result, func(c *rpc.Conn, text string) (string, error) {
		return c.Monitor(ctx, p.of, text)
	})
}

// ExecuteFD is Execute with an open file passed along.
func (p *passage) ExecuteFD(ctx context.Context, command string, args, result any, file *os.File) error {
	return p.execute(ctx, command, args, result, func(c *rpc.Conn, text string) (string, error) {
		return c.MonitorFile(ctx, p.of, text, file)
	})
}

func (p *passage) execute(ctx context.Context, command string, args, result any, send func(*rpc.Conn, string) (string, error)) error {
	request := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args}
	text, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("%s: marshal arguments: %w", command, err)
	}
	var answer string
	do := func(c *rpc.Conn) (err error) {
		answer, err = send(c, string(text))
		return err
	}
	if strings.HasPrefix(command, "query-") || strings.HasPrefix(command, "qom-get") || strings.HasPrefix(command, "qom-list") {
		err = p.domain.link.ask(ctx, do)
	} else {
		err = p.domain.link.order(ctx, do)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", command, p.ended(err))
	}
	return qmp.Decode([]byte(answer), command, result)
}

// ended makes an error of a QEMU that is gone qmp.ErrClosed. Whoever gets that finds Done
// closed, so that nobody takes the passage again: libvirt's word of the end may come later.
func (p *passage) ended(err error) error {
	var refused *rpc.Error
	if errors.As(err, &refused) && (rpc.HasCode(err, rpc.CodeOperationInvalid, rpc.CodeNoDomain) || !p.alive()) {
		_ = p.Close() // it never fails
		return fmt.Errorf("%w: %w", qmp.ErrClosed, err)
	}
	return err
}

// alive tells whether QEMU is still there.
func (p *passage) alive() bool { return isDomain(p.pid, p.of) }

// listen hands on what QEMU says, until it ends.
func (p *passage) listen(ctx context.Context, ready chan<- struct{}) {
	defer close(p.done)
	for p.alive() && ctx.Err() == nil {
		conn, err := p.domain.link.get(ctx)
		if err == nil {
			err = p.hear(ctx, conn, ready)
			ready = nil
		}
		if err != nil {
			p.pause(ctx)
		}
	}
	if ready != nil {
		close(ready)
	}
}

// pause waits a moment before libvirt is asked again.
func (p *passage) pause(ctx context.Context) {
	select {
	case <-time.After(tick):
	case <-ctx.Done():
	}
}

// hear listens on one connection, until that or QEMU ends. ready is closed once nothing is
// missed any more.
func (p *passage) hear(ctx context.Context, conn *rpc.Conn, ready chan<- struct{}) error {
	release := sync.OnceFunc(func() {
		if ready != nil {
			close(ready)
		}
	})
	defer release()
	events, err := conn.SubscribeMonitor(ctx, p.of)
	if err != nil {
		return err
	}
	defer events.Close() // with the connection at the latest
	life, err := conn.Subscribe(ctx, p.of, rpc.EventLifecycle)
	if err != nil {
		return err
	}
	defer life.Close()
	release()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case e := <-events.Events():
			p.Publish(qmp.Event{Name: e.Name, Data: json.RawMessage(e.Data), Time: e.Time})
			continue
		case <-life.Events():
		case <-look.C:
		case <-conn.Done():
			return rpc.ErrClosed
		case <-ctx.Done():
			return nil
		}
		if !p.alive() {
			return nil
		}
	}
}

// findPID looks for a domain's QEMU among the processes; 0: it is not there.
func findPID(d rpc.Domain) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("look for domain's QEMU: %w", err)
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isDomain(pid, d) {
			return pid, nil
		}
	}
	return 0, nil
}

// isDomain tells whether a process is the QEMU that libvirt has started for a domain. One
// that has ended and is not waited for yet has no command line any more.
func isDomain(pid int, d rpc.Domain) bool {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !bytes.Contains(line, []byte(d.UUID.String())) {
		return false
	}
	words := strings.Split(string(line), "\x00")
	i := slices.Index(words, "-uuid")
	return i > 0 && i+1 < len(words) && words[i+1] == d.UUID.String()
}
