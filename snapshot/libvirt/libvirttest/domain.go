package libvirttest

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"text/template"
	"time"

	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// bootLimit is how long a guest may take on a machine that is busy with others.
const bootLimit = 3 * time.Minute

// Domain is a guest of guesttest that a Daemon runs.
type Domain struct {
	*guesttest.Guest // its files; libvirt starts and ends it
	Daemon           *Daemon
	Conn             *rpc.Conn
	ID               rpc.Domain
}

// Options of a Domain, beside those of its guest.
type Options struct {
	guesttest.Options
	// Devices and Metadata are XML for these elements of the definition.
	Devices, Metadata string
	// OS is XML in the element os, in place of the boot from the guest's kernel: such a
	// domain is not made to come up.
	OS string
}

// Define makes a domain that is off.
func Define(t testing.TB, d *Daemon, c *rpc.Conn, o Options) *Domain {
	t.Helper()
	g := guesttest.NewStopped(t, o.Options)
	text, err := definition(g, o)
	if err != nil {
		t.Fatal(err)
	}
	dom := &Domain{Guest: g, Daemon: d, Conn: c}
	if dom.ID, err = c.Define(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	return dom
}

// Boot makes a domain and waits until its guest is ready.
func Boot(t testing.TB, d *Daemon, c *rpc.Conn, o Options) *Domain {
	t.Helper()
	dom := Define(t, d, c, o)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	if err := dom.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return dom
}

// Start starts the domain and waits until its guest is ready.
func (d *Domain) Start(ctx context.Context) error {
	id, err := d.Conn.Create(ctx, d.ID, 0)
	if err != nil {
		return err
	}
	d.ID = id
	return d.WaitReady(ctx)
}

// WaitReady waits until libvirt's agent channel is connected, the second agent answers and, with
// a recorder, the first record is acknowledged.
func (d *Domain) WaitReady(ctx context.Context) error {
	return d.poll(ctx, func() error {
		if err := guesttest.Ping(ctx, d.Side); err != nil {
			return err
		}
		if _, err := d.Conn.Agent(ctx, d.ID, `{"execute":"guest-ping"}`, 5*time.Second); err != nil {
			return err
		}
		return d.acked(1)
	})
}

// WaitAcked waits until record n is acknowledged.
func (d *Domain) WaitAcked(ctx context.Context, n uint64) error {
	return d.poll(ctx, func() error { return d.acked(n) })
}

func (d *Domain) acked(n uint64) error {
	if !d.Records() {
		return nil
	}
	last, err := d.Acked()
	if err == nil && last < n {
		err = fmt.Errorf("record %d is the last", last)
	}
	return err
}

func (d *Domain) poll(ctx context.Context, check func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for domain %s: %w: %w\n%s", d.Name, ctx.Err(), err, d.Logs())
		case <-tick.C:
		}
	}
}

// Kill ends the domain's QEMU as a crash would.
func (d *Domain) Kill(ctx context.Context) error {
	err := d.Conn.Destroy(ctx, d.ID, false)
	if rpc.HasCode(err, rpc.CodeOperationInvalid) { // it is off
		return nil
	}
	return err
}

// definition is the domain's XML.
func definition(g *guesttest.Guest, o Options) (string, error) {
	type disk struct{ Path, Format, Target, Bus string }
	data := struct {
		Options
		Guest   *guesttest.Guest
		Boot    guesttest.Boot
		Serial  string
		Acks    string
		Memory  int64
		Kind    string
		Drives  []disk
		HasSCSI bool
	}{Options: o, Guest: g, Boot: g.Boot(), Serial: g.SerialLog, Acks: filepath.Join(g.Dir, "acks.log"), Memory: g.Memory() >> 20}
	targets := map[guesttest.Bus]int{}
	for i, path := range g.Disks {
		bus := g.Bus(i)
		prefix := map[guesttest.Bus]string{guesttest.VirtioBlk: "vd", guesttest.VirtioSCSI: "sd"}[bus]
		if prefix == "" || targets[bus] > 25 {
			return "", errors.New("a disk that has no name in libvirt")
		}
		name := prefix + string(rune('a'+targets[bus]))
		targets[bus]++
		data.Drives = append(data.Drives, disk{path, string(g.Format(i)), name, prefix})
	}
	data.HasSCSI = slices.ContainsFunc(data.Drives, func(d disk) bool { return d.Bus == "sd" })
	var b bytes.Buffer
	if err := domainXML().Execute(&b, data); err != nil {
		return "", fmt.Errorf("write domain's XML: %w", err)
	}
	return b.String(), nil
}

func domainXML() *template.Template {
	escape := func(s string) (string, error) {
		var b bytes.Buffer
		err := xml.EscapeText(&b, []byte(s))
		return b.String(), err
	}
	return template.Must(template.New("domain").Funcs(template.FuncMap{"x": escape}).Parse(`<domain type='qemu'>
  <name>{{x .Guest.Name}}</name>
  <memory unit='MiB'>{{.Memory}}</memory>
  <vcpu>1</vcpu>
  {{with .Metadata}}<metadata>{{.}}</metadata>{{end}}
  <os>
    {{if .OS}}{{.OS}}{{else -}}
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{{x .Boot.Kernel}}</kernel>
    <initrd>{{x .Boot.Initrd}}</initrd>
    <cmdline>{{x .Boot.Arguments}}</cmdline>
    {{- end}}
  </os>
  <features><acpi/></features>
  <devices>
    {{range .Drives}}<disk type='file' device='disk'>
      <driver name='qemu' type='{{.Format}}'/>
      <source file='{{x .Path}}'/>
      <target dev='{{.Target}}' bus='{{if eq .Bus "vd"}}virtio{{else}}scsi{{end}}'/>
    </disk>
    {{end}}{{if .HasSCSI}}<controller type='scsi' model='virtio-scsi'/>{{end}}
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{{x .Serial}}'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'><source mode='bind' path='{{x .Guest.Side}}'/><target type='virtio' name='lull.side'/></channel>
    <channel type='file'><source path='{{x .Acks}}'/><target type='virtio' name='lull.acks'/></channel>
    <memballoon model='none'/>
    {{.Devices}}
  </devices>
</domain>
`))
}
