package qemu

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
)

// The disk hangs right after the guest went on, and nobody has set a limit any more: lull gives
// up by itself, and so the guest, which may wait for its memory to be written, goes on.
func TestSaveStalls(t *testing.T) {
	t.Parallel()
	r := savableBy(t, savedVM(), "background")
	disk := hungDisk{make(chan struct{})}
	s := r.saving(nil)
	s.lay = func(_ io.WriterAt, in io.Reader, limit int64) error { return layState(disk, in, limit) }
	s.noted = func() { <-disk.comesBack }
	s.patience = 300 * time.Millisecond
	marker, err := createState(r.plan.Saved)
	must(t, err)
	must(t, marker.Close())
	done, err := r.host.whileStopped(r.ctx, r.plan, s)
	r.wantErr(err, errStalled)
	if done != diskFrozen || !s.wentOn {
		t.Errorf("the disks are %v, the guest went on: %v", done, s.wentOn)
	}
	must(t, r.host.goOn(r.ctx, r.plan, s, done))
	r.goesOn()
	close(disk.comesBack)
	s.writer.Wait()
	r.unsaved()
}

// slowly writes nothing, and is not at the end before it is cut off.
func slowly(_ io.WriterAt, in io.Reader, _ int64) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	b := make([]byte, 4<<10)
	for range tick.C {
		if _, err := in.Read(b); err != nil {
			return err
		}
	}
	return nil
}

// The deltas grow while the memory is written: where that leaves too little room the state
// is given up, and its room is there for the deltas.
func TestSaveRunsOutOfRoom(t *testing.T) {
	t.Parallel()
	r := savableBy(t, savedVM(), "background")
	s := r.saving(nil)
	s.lay = slowly
	r.host.opt.Space = space.LeaveFree(1 << 60)
	err := r.host.saveInto(r.ctx, r.plan, s)
	r.wantErr(err, snapshot.ErrNotSaved)
	r.wantErr(err, snapshot.ErrNoSpace)
	if _, err := os.Lstat(r.plan.Saved.Path + savingSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state is still there: %v", err)
	}
	r.untuned()
	r.unsaved()
}

// The room of a state is set aside for as long as there is one, or may be.
func TestSaveClaimsRoom(t *testing.T) {
	t.Parallel()
	r := savable(t, savedVM())
	room, err := r.host.opt.Space.At(r.dir)
	must(t, err)
	due := func() int64 { return r.host.opt.Ledger.Due("another run", room.Device) }
	giveBack, err := r.host.claimState(r.plan)
	must(t, err)
	if got := due(); got != r.plan.Saved.Limit {
		t.Errorf("set aside: %d, want %d", got, r.plan.Saved.Limit)
	}
	giveBack()
	r.plan.Saved.Limit = 100 << 10
	if _, err := r.host.TakeSaved(r.ctx, r.plan, untold); !errors.Is(err, snapshot.ErrNotSaved) {
		t.Errorf("TakeSaved: %v", err)
	}
	if got := due(); got != 0 {
		t.Errorf("set aside for a state that there is not: %d", got)
	}
	r.unsaved()
}
