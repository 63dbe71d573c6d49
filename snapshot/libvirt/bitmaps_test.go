package libvirt

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/image"
)

// virsh runs libvirt's own client as the user of the checkpoints does.
func (b *bench) virsh(arg ...string) string {
	b.t.Helper()
	if _, err := exec.LookPath("virsh"); err != nil {
		b.t.Fatal("virsh is needed: apt-get install libvirt-clients")
	}
	return shell(b.t, "virsh", append([]string{"-q", "-c", b.daemon.Address().String()}, arg...)...)
}

// A user's checkpoint lives through runs that are merged, by libvirt or after a crash, and
// knows all that the guest wrote before, during and after.
func TestCheckpointBeside(t *testing.T) {
	t.Parallel()
	b := newBench(t, true, guesttest.Disk{Size: diskSize})
	b.start(t)
	b.virsh("checkpoint-create-as", "web", "mine", "--diskspec", "vda,checkpoint=bitmap")
	places := []int64{}
	write := func(r *run) {
		t.Helper()
		at := int64(1+2*len(places)) * 128 << 10
		if err := b.write("vda", at, 4096, 0x77); err != nil {
			t.Fatal(err)
		}
		places = append(places, at)
		for i := range r.want["vda"][at : at+4096] {
			r.want["vda"][at+int64(i)] = 0x77
		}
	}
	since := map[string]string{}
	for night, crash := range []bool{false, false, true} {
		r := b.begin(t)
		if err := r.host.Merge(r.ctx, r.plan); err != nil { // it is planned again, with records
			t.Fatal(err)
		}
		var err error
		if r.plan, err = r.host.Plan(r.ctx, "web", fmt.Sprintf("night%d", night)); err != nil {
			t.Fatal(err)
		}
		if r.plan, err = r.host.Track(r.ctx, r.plan, "night", since); err != nil {
			t.Fatal(err)
		}
		if want := since["vda"]; r.plan.Disks[0].Track.Since != want {
			t.Errorf("the record %q is not believed: %s", want, r.plan.Disks[0].Track.Reason)
		}
		if err := r.host.Prepare(r.ctx, r.plan); err != nil {
			t.Fatal(err)
		}
		write(r)
		if err := r.host.Take(r.ctx, r.plan); err != nil {
			t.Fatal(err)
		}
		write(r)
		if crash {
			b.crash(t)
			r.ends()
			b.start(t)
		} else {
			r.ends()
		}
		since = map[string]string{"vda": r.plan.Disks[0].Track.Record}
		write(r)
		r.asBefore()
	}
	r := b.begin(t)
	if err := r.host.Settle(r.ctx, r.plan, nil); err != nil { // the series of no name: nothing is its own
		t.Fatal(err)
	}
	r.ends()
	if said := b.virsh("checkpoint-list", "web", "--name"); said != "mine\n\n" && said != "mine\n" {
		t.Errorf("checkpoints: %q", said)
	}
	if err := b.conn.Destroy(t.Context(), b.dom.ID, true); err != nil { // QEMU writes its bitmaps
		t.Fatal(err)
	}
	b.knows("mine", places)
	b.knows(since["vda"], places[len(places)-2:])
}

// knows proves that a bitmap of the image has these places, and far from all others.
func (b *bench) knows(bitmap string, places []int64) {
	b.t.Helper()
	var set *snapshot.ChangeSet
	eventually(b.t, "bitmap "+bitmap, func() (err error) { // QEMU ends
		set, err = image.ReadBitmap(b.t.Context(), b.dom.Disks[0], bitmap, diskSize)
		return err
	})
	for _, at := range places {
		if !set.Any(at, 4096) {
			b.t.Errorf("bitmap %s lacks what was written at %d", bitmap, at)
		}
	}
	if set.Bytes() > int64(len(places)+1)*128<<10 {
		b.t.Errorf("bitmap %s has %d bytes, for %d places", bitmap, set.Bytes(), len(places))
	}
}
