package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/lull-backup/lull/transport/blob"
)

func ranges(t *testing.T, k kit) {
	data := noise(10000)
	k.put(t, "r", data)
	for _, c := range []struct{ off, length int64 }{
		{0, -1}, {0, 10000}, {0, 0}, {0, 1}, {1, 1}, {9999, 1}, {9999, -1}, {10000, 0}, {10000, -1}, {5000, 0}, {4096, 4096}, {1, -1},
	} {
		got, err := k.Read(k.ctx, "r", c.off, c.length)
		want := data[c.off:]
		if c.length >= 0 {
			want = want[:c.length]
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d+%d: %d bytes, %v", c.off, c.length, len(got), err)
		}
	}
	for _, c := range []struct{ off, length int64 }{
		{0, 10001}, {9999, 2}, {10000, 1}, {10001, 0}, {10001, -1}, {10001, 5}, {-1, 1}, {-1, -1},
		{1, math.MaxInt64}, {math.MaxInt64, 1}, {math.MaxInt64, math.MaxInt64},
	} {
		got, err := k.Read(k.ctx, "r", c.off, c.length)
		if !errors.Is(err, blob.ErrRange) || got != nil {
			t.Errorf("read %d+%d: %d bytes, %v, want ErrRange", c.off, c.length, len(got), err)
		}
	}
	var wg sync.WaitGroup
	for i := range int64(16) {
		wg.Go(func() {
			if got, err := k.Read(k.ctx, "r", i*100, 100); err != nil || !bytes.Equal(got, data[i*100:][:100]) {
				t.Errorf("read beside others: %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}

func notFound(t *testing.T, k kit) {
	k.put(t, "folder/object", []byte("x"))
	for _, name := range []string{"none", "folder", "folder/none", "no/such/thing"} {
		for _, length := range []int64{-1, 0, 5} {
			_, err := k.Read(k.ctx, name, 0, length)
			k.wantErr(t, "read "+name, err, blob.ErrNotFound)
		}
		_, err := k.Stat(k.ctx, name)
		k.wantErr(t, "stat "+name, err, blob.ErrNotFound)
	}
}

func list(t *testing.T, k kit) {
	k.wantNames(t, "")
	for i, name := range []string{"config", "packs/aa/1", "packs/ab/2", "packs/ab2", "points/x"} {
		k.put(t, name, make([]byte, i))
	}
	k.wantNames(t, "", "config", "packs/aa/1", "packs/ab/2", "packs/ab2", "points/x")
	k.wantNames(t, "packs/", "packs/aa/1", "packs/ab/2", "packs/ab2")
	k.wantNames(t, "p", "packs/aa/1", "packs/ab/2", "packs/ab2", "points/x")
	k.wantNames(t, "packs/ab", "packs/ab/2", "packs/ab2")
	k.wantNames(t, "packs/ab/", "packs/ab/2")
	k.wantNames(t, "packs/ab/2", "packs/ab/2")
	for _, none := range []string{"packs/ab/2/", "q", "packs/zz/", "no/such/", "../", "/", ".", "packs/../", "A"} {
		k.wantNames(t, none)
	}
	err := k.List(k.ctx, "points/", func(i blob.Info) error {
		if i.Size != 4 || i.Created.IsZero() {
			t.Errorf("listed as %+v", i)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func listMany(t *testing.T, k kit) {
	const n = 2500 // more than two pages of an S3 listing
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				if err := k.Create(k.ctx, fmt.Sprintf("many/%02x/%04d", i%64, i), nil); err != nil {
					t.Errorf("create: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, name := range k.names(t, "many/") {
		seen[name] = true
	}
	if len(seen) != n || len(k.names(t, "")) != n {
		t.Errorf("%d different names, %d in all, want %d", len(seen), len(k.names(t, "")), n)
	}
	if got := k.names(t, "many/3f/"); len(got) != n/64 {
		t.Errorf("%d in one folder: %v", len(got), got)
	}
}

func listStops(t *testing.T, k kit) {
	for i := range 5 {
		k.put(t, fmt.Sprint("s/", i), nil)
	}
	enough := errors.New("enough")
	calls := 0
	err := k.List(k.ctx, "s/", func(blob.Info) error {
		if calls++; calls == 2 {
			return enough
		}
		return nil
	})
	if err != enough || calls != 2 { // as it is, not wrapped
		t.Errorf("%v after %d calls", err, calls)
	}
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	err = k.List(ctx, "s/", func(blob.Info) error { cancel(); return nil })
	k.wantErr(t, "list, cancelled in between", err, context.Canceled)
}

func names(t *testing.T, k kit) {
	k.put(t, longName(), []byte("long"))
	k.want(t, longName(), []byte("long"))
	k.wantNames(t, "x/", longName())
	for _, name := range []string{"", "../escape", "/abs", "a//b", "a/", ".hidden", "a/.b", "UPPER", "sp ace", "nul\x00", longName() + "y"} {
		k.wantErr(t, "create "+name, k.Create(k.ctx, name, nil), blob.ErrBadName)
		k.wantErr(t, "delete "+name, k.Delete(k.ctx, name), blob.ErrBadName)
		_, err := k.Read(k.ctx, name, 0, -1)
		k.wantErr(t, "read "+name, err, blob.ErrBadName)
		_, err = k.Stat(k.ctx, name)
		k.wantErr(t, "stat "+name, err, blob.ErrBadName)
	}
	k.wantNames(t, "", longName())
}

func stringer(t *testing.T, k kit) {
	if s := k.String(); s == "" || strings.Contains(s, "\n") {
		t.Errorf("the store calls itself %q", s)
	}
}
