package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

func create(t *testing.T, k kit) {
	from := time.Now()
	k.put(t, "packs/ab/abcd-1.0_z", []byte("content"))
	k.want(t, "packs/ab/abcd-1.0_z", []byte("content"))
	info, err := k.Stat(k.ctx, "packs/ab/abcd-1.0_z")
	if err != nil || info.Name != "packs/ab/abcd-1.0_z" || info.Size != 7 {
		t.Fatalf("stat: %+v, %v", info, err)
	}
	// The store's clock is its own, but tests have it on this machine.
	if info.Created.Before(from.Add(-time.Minute)) || info.Created.After(time.Now().Add(time.Minute)) {
		t.Errorf("created %v, the test began %v", info.Created, from)
	}
}

func empty(t *testing.T, k kit) {
	k.put(t, "empty", nil)
	k.want(t, "empty", nil)
	if info, err := k.Stat(k.ctx, "empty"); err != nil || info.Size != 0 {
		t.Errorf("stat: %+v, %v", info, err)
	}
	if b, err := k.Read(k.ctx, "empty", 0, 0); err != nil || len(b) != 0 {
		t.Errorf("read nothing: %q, %v", b, err)
	}
	_, err := k.Read(k.ctx, "empty", 0, 1)
	k.wantErr(t, "read past the end", err, blob.ErrRange)
	k.wantErr(t, "create again", k.Create(k.ctx, "empty", nil), blob.ErrExists)
}

func large(t *testing.T, k kit) {
	data := noise(64 << 20)
	k.put(t, "large", data)
	k.want(t, "large", data)
	got, err := k.Read(k.ctx, "large", 33<<20, 1<<20)
	if err != nil || !bytes.Equal(got, data[33<<20:34<<20]) {
		t.Errorf("read the middle: %d bytes, %v", len(got), err)
	}
}

func createOnce(t *testing.T, k kit) {
	k.put(t, "a/once", []byte("first"))
	for _, data := range []string{"second", "first", ""} {
		k.wantErr(t, "create again", k.Create(k.ctx, "a/once", []byte(data)), blob.ErrExists)
	}
	k.want(t, "a/once", []byte("first"))
	k.wantNames(t, "", "a/once")
}

// race: of many calls at once exactly one wins, and its data is what is there.
func race(t *testing.T, k kit) {
	for round := range 8 {
		name := fmt.Sprintf("race/%d", round)
		var winner atomic.Int32
		var wins atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				err := k.Create(k.ctx, name, bytes.Repeat([]byte{byte(i)}, 10000))
				switch {
				case err == nil:
					wins.Add(1)
					winner.Store(int32(i))
				case !errors.Is(err, blob.ErrExists) && blob.Permanent(err):
					t.Errorf("create: %v", err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Fatalf("%d calls created %s", wins.Load(), name)
		}
		k.want(t, name, bytes.Repeat([]byte{byte(winner.Load())}, 10000))
	}
}

// sameNonce: a call that comes again after a lost reply finds its own object, if
// the store can tell; if it cannot, it says that the object is there.
func sameNonce(t *testing.T, k kit) {
	ctx := blob.WithNonce(k.ctx)
	if err := k.Create(ctx, "mine", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := k.Create(ctx, "mine", []byte("x")); err != nil && !errors.Is(err, blob.ErrExists) {
		t.Errorf("create again under the same nonce: %v", err)
	}
	k.wantErr(t, "create under another nonce", k.Create(blob.WithNonce(k.ctx), "mine", []byte("x")), blob.ErrExists)
}

// noPart: who reads while objects are written sees nothing or all of them.
func noPart(t *testing.T, k kit) {
	data := noise(3 << 20)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(stop)
		for i := range 6 {
			if err := k.Create(k.ctx, fmt.Sprintf("big/%d", i), data); err != nil {
				t.Errorf("create: %v", err)
			}
		}
	})
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		seen := 0
		err := k.List(k.ctx, "", func(i blob.Info) error {
			seen++
			if i.Size != int64(len(data)) {
				t.Errorf("%s is listed with %d bytes", i.Name, i.Size)
			}
			return nil
		})
		if err != nil {
			t.Errorf("list: %v", err)
		}
		name := fmt.Sprintf("big/%d", seen)
		if got, err := k.Read(k.ctx, name, 0, -1); err == nil && !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes of %d", name, len(got), len(data))
		} else if err != nil && !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("read %s: %v", name, err)
		}
	}
	wg.Wait()
}

func remove(t *testing.T, k kit) {
	k.put(t, "d/one", []byte("1"))
	k.put(t, "d/two", []byte("2"))
	for range 2 {
		if err := k.Delete(k.ctx, "d/one"); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	if err := k.Delete(k.ctx, "never/was"); err != nil {
		t.Errorf("delete what never was: %v", err)
	}
	_, err := k.Read(k.ctx, "d/one", 0, -1)
	k.wantErr(t, "read what was deleted", err, blob.ErrNotFound)
	k.wantNames(t, "", "d/two")
	k.put(t, "d/one", []byte("again"))
	k.want(t, "d/one", []byte("again"))
}

func cancelled(t *testing.T, k kit) {
	k.put(t, "here", []byte("data"))
	ctx, cancel := context.WithCancel(k.ctx)
	cancel()
	k.wantErr(t, "create", k.Create(ctx, "late", []byte("x")), context.Canceled)
	k.wantErr(t, "delete", k.Delete(ctx, "here"), context.Canceled)
	_, err := k.Read(ctx, "here", 0, -1)
	k.wantErr(t, "read", err, context.Canceled)
	_, err = k.Stat(ctx, "here")
	k.wantErr(t, "stat", err, context.Canceled)
	k.wantErr(t, "list", k.List(ctx, "", func(blob.Info) error { return nil }), context.Canceled)
	k.wantNames(t, "", "here")

	// Cancelled on the way: there whole, or not at all, and nothing else is left.
	for i := range 4 {
		ctx, cancel := context.WithCancel(k.ctx)
		var wg sync.WaitGroup
		name := fmt.Sprintf("cut/%d", i)
		wg.Go(func() { _ = k.Create(ctx, name, noise(8<<20)) })
		k.names(t, "") // any work, so that the other is under way
		cancel()
		wg.Wait()
	}
	for _, name := range k.names(t, "cut/") {
		k.want(t, name, noise(8<<20))
	}
}

// ownedData: the caller may do as it likes with its data after Create, and with
// the result of Read.
func ownedData(t *testing.T, k kit) {
	data := []byte("abc")
	k.put(t, "own", data)
	data[0] = 'X'
	for range 2 {
		got, err := k.Read(k.ctx, "own", 0, -1)
		if err != nil || string(got) != "abc" {
			t.Fatalf("%q, %v", got, err)
		}
		got[1] = 'Y'
	}
}
