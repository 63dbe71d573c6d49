package guesttest_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/guesttest/record"
)

// testLimit is generous: the machine may be busy.
const testLimit = 5 * time.Minute

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testLimit)
	t.Cleanup(cancel)
	return ctx
}

// TestGuestFrozenCopy is the promise that everything else stands on: copies of the disks
// taken while the file systems are frozen hold every acknowledged record, show
// one instant, and boot.
func TestGuestFrozenCopy(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	g := guesttest.New(t, guesttest.Options{})
	if err := g.WaitAcked(ctx, 20); err != nil {
		t.Fatal(err)
	}
	freeze(ctx, t, g)
	acked, err := g.Acked()
	if err != nil {
		t.Fatal(err)
	}
	copies := copyDisks(t, g)
	thaw(ctx, t, g)
	if err := g.WaitAcked(ctx, acked+20); err != nil {
		t.Fatal("the guest does not write after the thaw:", err)
	}
	wholeNow(ctx, t, g)
	g.Kill()

	restored := guesttest.New(t, guesttest.Options{Disks: copies})
	found, err := restored.Found(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Err(); err != nil {
		t.Error(err)
	}
	if found.Last() < acked {
		t.Errorf("record %d was acknowledged before the freeze, but the copy ends with %d", acked, found.Last())
	}
	if torn := found.Logs[0].Torn + found.Logs[1].Torn; torn != 0 {
		t.Errorf("%d records are torn in a copy of frozen file systems", torn)
	}
}

func freeze(ctx context.Context, t *testing.T, g *guesttest.Guest) {
	t.Helper()
	var frozen int
	if err := guesttest.Call(ctx, g.Agent, "guest-fsfreeze-freeze", nil, &frozen); err != nil {
		t.Fatal(err)
	}
	if frozen != len(g.Disks) {
		t.Fatalf("froze %d file systems, want %d", frozen, len(g.Disks))
	}
}

func thaw(ctx context.Context, t *testing.T, g *guesttest.Guest) {
	t.Helper()
	if err := guesttest.Call(ctx, g.Agent, "guest-fsfreeze-thaw", nil, nil); err != nil {
		t.Fatal(err)
	}
}

func copyDisks(t *testing.T, g *guesttest.Guest) []guesttest.Disk {
	t.Helper()
	var copies []guesttest.Disk
	for i, path := range g.Disks {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), filepath.Base(path))
		if err := os.WriteFile(to, data, 0o644); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, guesttest.Disk{Path: to, Format: g.Format(i)})
	}
	return copies
}

// wholeNow verifies a guest that may be writing at this moment.
func wholeNow(ctx context.Context, t *testing.T, g *guesttest.Guest) {
	t.Helper()
	r := verifyStill(ctx, t, g)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// verifyStill stops the recorder between two records, so that it does not move
// from one log to the next while they are read.
func verifyStill(ctx context.Context, t *testing.T, g *guesttest.Guest) record.Report {
	t.Helper()
	if _, err := g.Exec(ctx, "/bin/sh", "-c", "kill -STOP $(cat /run/recorder.pid)"); err != nil {
		t.Fatal(err)
	}
	r, err := g.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestGuestVerifyFindsDamage damages the logs inside the guest: the check can fail.
func TestGuestVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	g := guesttest.New(t, guesttest.Options{Disks: []guesttest.Disk{
		{Format: snapshot.FormatRaw, Bus: guesttest.VirtioSCSI},
		{Style: guesttest.StyleDrive},
		{Style: guesttest.StyleLegacy, Format: snapshot.FormatRaw},
	}})
	if err := g.WaitAcked(ctx, 20); err != nil {
		t.Fatal(err)
	}
	wholeNow(ctx, t, g)
	const spoil = "dd if=/dev/urandom of=/data/1/records.log bs=4096 seek=7 count=1 conv=notrunc"
	if _, err := g.Exec(ctx, "/bin/sh", "-c", spoil); err != nil {
		t.Fatal(err)
	}
	r := verifyStill(ctx, t, g)
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "/data/1/records.log: the record in slot 7 is torn") ||
		!strings.Contains(err.Error(), "records 8 to 8 are missing") {
		t.Errorf("the spoilt record went unnoticed: %v", err)
	}
}

// TestGuestCrashAndStartAgain ends QEMU as a crash would and starts it again on
// the same disks, with UEFI.
func TestGuestCrashAndStartAgain(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	g := guesttest.New(t, guesttest.Options{UEFI: true})
	if err := g.WaitAcked(ctx, 20); err != nil {
		t.Fatal(err)
	}
	g.Kill()
	acked, err := g.Acked()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	found, err := g.Found(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Err(); err != nil {
		t.Error(err)
	}
	if found.Last() < acked {
		t.Errorf("record %d was acknowledged before the crash, but the disks end with %d", acked, found.Last())
	}
	if err := g.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}
