package libvirt

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/libvirttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// compare is a look at the domain.
func (r *run) compare(owned *snapshot.Plan) []snapshot.Finding {
	r.t.Helper()
	found, err := r.host.Compare(r.ctx, "web", owned)
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

// finds fails where a look finds something of another kind on a disk, or no advice.
func (r *run) finds(owned *snapshot.Plan, kind snapshot.FindingKind, advice string) []snapshot.Finding {
	r.t.Helper()
	found := slices.DeleteFunc(r.compare(owned), func(f snapshot.Finding) bool { return f.Kind == snapshot.FindingStray })
	if len(found) != len(r.plan.Disks) {
		r.t.Fatalf("%d findings: %+v", len(found), found)
	}
	for _, f := range found {
		if f.Kind != kind || f.Run != "run" || !strings.Contains(f.Next, advice) {
			r.t.Errorf("want %s: %+v", kind, f)
		}
	}
	return found
}

// busy fails where Merge does not refuse, with that advice.
func (r *run) busy(advice string) {
	r.t.Helper()
	var hinted *snapshot.Hinted
	if err := r.host.Merge(r.ctx, r.plan); !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, advice) {
		r.t.Errorf("Merge: %v", err)
	}
}

// definition is the domain's for its next start.
func (r *run) definition(of rpc.Domain) string {
	r.t.Helper()
	text, err := r.conn.XML(r.ctx, of, rpc.XMLInactive|rpc.XMLSecure)
	if err != nil {
		r.t.Fatal(err)
	}
	return text
}

// withImages is a definition with the images in the place of their deltas.
func (r *run) withImages(text string) string {
	r.t.Helper()
	for _, d := range r.plan.Disks {
		l, err := parseDisks(text)
		if err == nil {
			text, err = l.retarget(d)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	return text
}

// A user's snapshot of the domain goes into the layers that it writes to, which are the deltas.
func (r *run) snapshotInDelta() {
	r.take()
	r.virsh("snapshot-create-as", "web", "theirs")
	r.scribble()
	var hinted *snapshot.Hinted
	if err := r.host.Merge(r.ctx, r.plan); !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "virsh snapshot-delete") {
		r.t.Errorf("Merge of a delta with a user's snapshot: %v", err)
	}
	r.virsh("snapshot-delete", "web", "theirs")
	r.ends()
}

// A merge says how far it is, and slows the guest down where it may, with libvirt's knowledge.
func (r *run) told() {
	r.plan.Slowdown = snapshot.Slowdown{After: 1, Rate: 1 << 20}
	r.take()
	r.slow()
	told, merged := make(chan snapshot.Merging, 100), make(chan error, 1)
	go func() {
		merged <- r.host.MergeTelling(r.ctx, r.plan, func(m snapshot.Merging) {
			select {
			case told <- m:
			default:
			}
		})
	}()
	const limit = "<write_bytes_sec>1048576<"
	for done := false; !done; {
		select {
		case m := <-told:
			if m.Total <= 0 || m.Done > m.Total {
				r.t.Errorf("told %+v", m)
			}
			done = m.Slowed != ""
		case err := <-merged:
			r.t.Fatalf("Merge, before the guest was slowed down: %v", err)
		}
	}
	if text, err := r.conn.XML(r.ctx, r.dom.ID, 0); err != nil || !strings.Contains(text, limit) {
		r.t.Errorf("libvirt does not know that the disk is slow: %v\n%s", err, text)
	}
	r.speedUp()
	if err := <-merged; err != nil {
		r.t.Errorf("Merge: %v", err)
	}
	if text, err := r.conn.XML(r.ctx, r.dom.ID, 0); err != nil || strings.Contains(text, "<iotune>") {
		r.t.Errorf("the disk stays slow: %v\n%s", err, text)
	}
	r.ends()
}

// No journal has the run any more: what it left is found, of a domain that is off and of one
// that runs, and put right from what libvirt and QEMU say.
func (r *run) journalLost() {
	r.take()
	r.finds(&r.plan, snapshot.FindingOwed, "lull")
	r.crash(r.t)
	r.finds(&r.plan, snapshot.FindingOwed, "do not start")
	r.finds(nil, snapshot.FindingOrphan, "virsh start web")
	r.start(r.t)
	for range r.plan.Disks {
		found := r.compare(nil)
		i := slices.IndexFunc(found, func(f snapshot.Finding) bool { return f.Adopt != nil })
		if i < 0 {
			r.t.Fatalf("nothing can be adopted: %+v", found)
		}
		if err := r.host.Merge(r.ctx, *found[i].Adopt); err != nil {
			r.t.Fatal(err)
		}
	}
	r.ends() // the folder for deltas has its links
}

// A definition for the next start that names a delta is found, while the domain runs from its
// images, and when it is off.
func (r *run) dangling() {
	r.ends()
	before := r.definition(r.dom.ID)
	lost := r.plan.Disks[0].Path + ".lull-lost.delta"
	r.edit(func(xml string) string { return strings.Replace(xml, r.plan.Disks[0].Path, lost, 1) })
	look := func() {
		r.t.Helper()
		found := r.compare(nil)
		if len(found) != 1 || found[0].Path != lost || !found[0].Blocks() || !strings.Contains(found[0].Next, "virsh edit web") {
			r.t.Errorf("found %+v", found)
		}
	}
	look()
	r.crash(r.t)
	look()
	r.edit(func(string) string { return before })
	r.asBefore()
}

// libvirt keeps the memory of a domain that ran from its deltas.
func (r *run) managedSaved() {
	r.take()
	if err := r.conn.ManagedSave(r.ctx, r.dom.ID, 0); err != nil {
		r.t.Fatal(err)
	}
	r.busy("virsh start")
	r.finds(&r.plan, snapshot.FindingRefused, "virsh start")
	r.start(r.t)
	r.scribble()
	r.ends()
}

// The domain gets another name in mid-run, and another domain has its name: that is not touched.
func (r *run) renamed() {
	r.take()
	r.crash(r.t)
	r.virsh("domrename", "web", "web2")
	other := libvirttest.Define(r.t, r.daemon, r.conn, libvirttest.Options{
		Options: guesttest.Options{Name: "web", Disks: []guesttest.Disk{{Size: diskSize}}},
		OS:      "<type arch='x86_64' machine='q35'>hvm</type>",
	})
	before := r.definition(other.ID)
	r.finds(&r.plan, snapshot.FindingOwed, "lull")
	if err := r.host.Merge(r.ctx, r.plan); err != nil {
		r.t.Fatalf("Merge: %v", err)
	}
	if diff := cmp.Diff(before, r.definition(other.ID)); diff != "" {
		r.t.Error(diff)
	}
	if err := r.conn.Undefine(r.ctx, other.ID, 0); err != nil {
		r.t.Fatal(err)
	}
	r.virsh("domrename", "web2", "web")
	r.asBefore()
}

// The domain is destroyed and undefined in mid-run, and another was defined by a copy of what
// it was then: that would have no disk any more if the delta went.
func (r *run) copied() {
	r.take()
	text := r.definition(r.dom.ID)
	if err := errors.Join(r.conn.Destroy(r.ctx, r.dom.ID, false), r.conn.Undefine(r.ctx, r.dom.ID, 0)); err != nil {
		r.t.Fatal(err)
	}
	another := strings.NewReplacer("<name>web<", "<name>copy<", r.dom.ID.UUID.String(), newUUID()).Replace(text)
	other, err := r.conn.Define(r.ctx, another)
	if err != nil {
		r.t.Fatal(err)
	}
	r.busy("virsh edit copy")
	if _, err := os.Stat(r.plan.Disks[0].Delta); err != nil {
		r.t.Error(err)
	}
	if _, err := r.conn.Define(r.ctx, r.withImages(another)); err != nil {
		r.t.Fatal(err)
	}
	if err := r.host.Merge(r.ctx, r.plan); err != nil {
		r.t.Errorf("Merge: %v", err)
	}
	err = r.conn.Undefine(r.ctx, other, 0)
	if err == nil {
		r.dom.ID, err = r.conn.Define(r.ctx, r.withImages(text))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.asBefore()
}
