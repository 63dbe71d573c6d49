package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
)

func TestCall(t *testing.T) {
	c, _ := dialPeer(t, Options{}, func(p *peer, h header, payload []byte) {
		want := payloadOf(web(), u32(XMLInactive|XMLSecure))
		if h.program != programRemote || h.procedure != 14 || h.kind != typeCall || cmp.Diff(want, payload) != "" {
			t.Errorf("call %+v %x", h, payload)
		}
		p.reply(h, str("<domain/>"))
	})
	xml, err := c.XML(testContext(t), web(), XMLInactive|XMLSecure)
	if err != nil || xml != "<domain/>" {
		t.Errorf("XML: %q, %v", xml, err)
	}
}

func TestLists(t *testing.T) {
	c, _ := dialPeer(t, Options{}, func(p *peer, h header, _ []byte) {
		switch h.procedure {
		case 273:
			p.reply(h, u32(2), web(), Domain{Name: "db", ID: -1}, u32(2))
		case 413:
			p.reply(h, u32(1), str("first"), web(), u32(1))
		case 344:
			p.reply(h, u32(1), web(), u32(3), str("block.count"), u32(paramUint), u32(1),
				str("state.state"), u32(paramInt), i32(-1), str("block.0.name"), u32(paramString), str("vda"))
		}
	})
	ctx := testContext(t)
	all, err := c.Domains(ctx)
	if diff := cmp.Diff([]Domain{web(), {Name: "db", ID: -1}}, all); diff != "" || err != nil {
		t.Errorf("domains: %v\n%s", err, diff)
	}
	names, err := c.Checkpoints(ctx, web())
	if diff := cmp.Diff([]string{"first"}, names); diff != "" || err != nil {
		t.Errorf("checkpoints: %v\n%s", err, diff)
	}
	stats, err := c.Stats(ctx, web(), StatsBlock, 0)
	want := Params{"block.count": uint64(1), "state.state": int64(-1), "block.0.name": "vda"}
	if diff := cmp.Diff(want, stats); diff != "" || err != nil {
		t.Errorf("stats: %v\n%s", err, diff)
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		code Code
		is   error
		hint string
	}{
		{CodeNoDomain, snapshot.ErrNotFound, ""},
		{CodeOperationTimeout, snapshot.ErrBusy, "domjobinfo"},
		{CodeAgentUnresponsive, snapshot.ErrGuestSilent, ""},
		{CodeOperationUnsupported, snapshot.ErrUnsupported, ""},
		{CodeAccessDenied, nil, "root"},
		{CodeInternal, nil, ""},
	} {
		c, _ := dialPeer(t, Options{}, func(p *peer, h header, _ []byte) {
			p.refuse(h, test.code, "cannot acquire\nstate change lock")
		})
		_, _, err := c.State(testContext(t), web())
		if !HasCode(err, test.code) || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("code %d: %v", test.code, err)
			continue
		}
		if want := "ask for domain's state: cannot acquire state change lock"; err.Error() != want {
			t.Errorf("code %d reads %q", test.code, err)
		}
		var hinted *snapshot.Hinted
		if errors.As(err, &hinted) != (test.hint != "") || test.hint != "" && !strings.Contains(hinted.Next, test.hint) {
			t.Errorf("hint of code %d: %v", test.code, hinted)
		}
	}
}

// TestOutOfOrder has many callers on one connection, whose answers come the other way
// round.
func TestOutOfOrder(t *testing.T) {
	const callers = MaxCalls
	var mu sync.Mutex
	var held []header
	c, _ := dialPeer(t, Options{}, func(p *peer, h header, _ []byte) {
		mu.Lock()
		defer mu.Unlock()
		if held = append(held, h); len(held) < callers {
			return
		}
		for i := range held {
			h := held[len(held)-1-i]
			p.reply(h, i32(h.serial), i32(0))
		}
	})
	var all sync.WaitGroup
	seen := make([]State, callers)
	for i := range callers {
		all.Go(func() {
			var err error
			if seen[i], _, err = c.State(testContext(t), web()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	once := map[State]bool{}
	for _, s := range seen {
		once[s] = true
	}
	if len(once) != callers {
		t.Errorf("answers %v", seen)
	}
}

// TestLateAnswer gives up on a call, whose answer must not be taken for the next one's.
func TestLateAnswer(t *testing.T) {
	late := make(chan header, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, _ := dialPeer(t, Options{}, func(p *peer, h header, _ []byte) {
		select {
		case first := <-late:
			p.reply(first, i32(StatePaused), i32(0))
			p.reply(h, i32(StateRunning), i32(0))
		default:
			late <- h
			cancel()
		}
	})
	if _, _, err := c.State(ctx, web()); !errors.Is(err, context.Canceled) {
		t.Fatalf("no answer: %v", err)
	}
	if s, _, err := c.State(testContext(t), web()); err != nil || s != StateRunning {
		t.Errorf("state %d, %v", s, err)
	}
}

// TestBound: what the daemon would not take any more waits on this side; those that were
// given up on count until they are answered.
func TestBound(t *testing.T) {
	came := make(chan header, 2*MaxCalls)
	c, p := dialPeer(t, Options{}, func(_ *peer, h header, _ []byte) { came <- h })
	ctx, giveUp := context.WithCancel(testContext(t))
	defer giveUp()
	var all sync.WaitGroup
	for range MaxCalls {
		all.Go(func() {
			if _, _, err := c.State(ctx, web()); !errors.Is(err, context.Canceled) {
				t.Errorf("a call that was given up on: %v", err)
			}
		})
	}
	var held []header
	for range MaxCalls {
		held = append(held, <-came)
	}
	giveUp()
	all.Wait()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := c.State(short, web()); !errors.Is(err, context.DeadlineExceeded) || len(came) > 0 {
		t.Errorf("one call too many: %v, %d sent", err, len(came))
	}
	p.reply(held[0], i32(StatePaused), i32(0))
	all.Go(func() {
		if s, _, err := c.State(testContext(t), web()); err != nil || s != StateRunning {
			t.Errorf("state %d, %v", s, err)
		}
	})
	p.reply(<-came, i32(StateRunning), i32(0))
	all.Wait()
}

func TestLimits(t *testing.T) {
	c, _ := dialPeer(t, Options{}, func(p *peer, h header, payload []byte) {
		want := payloadOf(web(), str("vda"), u32(2), str("group_name"), u32(paramString), str("g"),
			str("total_bytes_sec"), u32(paramULong), u64(5), u32(AffectLive))
		if diff := cmp.Diff(want, payload); h.procedure != 252 || diff != "" {
			t.Errorf("call %d: %s", h.procedure, diff)
		}
		p.reply(h)
	})
	if err := c.SetBlockIoTune(testContext(t), web(), "vda", Params{"total_bytes_sec": uint64(5), "group_name": "g"}, AffectLive); err != nil {
		t.Error(err)
	}
	if err := c.SetBlockIoTune(testContext(t), web(), "vda", Params{"x": 1}, AffectLive); !errors.Is(err, ErrProtocol) {
		t.Errorf("a value of no type of libvirt's: %v", err)
	}
}

func TestJob(t *testing.T) {
	c, _ := dialPeer(t, Options{}, func(p *peer, h header, payload []byte) {
		if diff := cmp.Diff(payloadOf(web(), u32(0)), payload); h.procedure != 298 || diff != "" {
			t.Errorf("call %d: %s", h.procedure, diff)
		}
		p.reply(h, i32(JobUnbounded), u32(2), str("time_elapsed"), u32(paramULong), u64(5), str("operation"), u32(paramInt), i32(6))
	})
	if kind, what, err := c.Job(testContext(t), web()); kind != JobUnbounded || what != JobSnapshot || err != nil {
		t.Errorf("job %d, %d, %v", kind, what, err)
	}
}

func TestUUID(t *testing.T) {
	u := UUID{0xab, 1, 15: 0xff}
	if got, err := ParseUUID(u.String()); err != nil || got != u {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", u.String()[1:], u.String() + "0", strings.ReplaceAll(u.String(), "-", ""), strings.Replace(u.String(), "a", "x", 1)} {
		if got, err := ParseUUID(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestOwnLimit(t *testing.T) {
	c, _ := dialPeer(t, Options{Call: 10 * time.Millisecond}, func(*peer, header, []byte) {})
	if _, _, err := c.State(context.Background(), web()); !errors.Is(err, ErrSilent) {
		t.Errorf("no answer: %v", err)
	}
}

func TestEvents(t *testing.T) {
	c, p := dialPeer(t, Options{}, func(p *peer, h header, payload []byte) {
		switch h.procedure {
		case 316: // the event comes in the reply's wake
			kind := binary.BigEndian.Uint32(payload)
			p.reply(h, i32(100+kind))
			if EventKind(kind) == EventLifecycle {
				p.event(318, i32(100), web(), i32(LifecycleStopped), i32(1))
			}
		case 317:
			p.reply(h)
		}
	})
	ctx := testContext(t)
	s, err := c.Subscribe(ctx, web(), EventLifecycle, EventBlockJob, EventBlockThreshold, EventIOError)
	if err != nil {
		t.Fatal(err)
	}
	p.event(9999, i32(100)) // of a newer libvirt
	p.event(318, i32(7), web(), i32(1), i32(1))
	p.event(339, i32(116), web(), str("vda"), i32(BlockJobActiveCommit), i32(BlockJobReady))
	p.event(385, i32(124), web(), str("vda"), opt("/x"), u64(10), u64(5))
	p.event(324, i32(106), web(), str("/x"), str("virtio-disk0"), i32(1), str("enospc"))
	want := []Event{
		{Kind: EventLifecycle, Domain: web(), Code: LifecycleStopped, Detail: 1},
		{Kind: EventBlockJob, Domain: web(), Disk: "vda", Code: int32(BlockJobActiveCommit), Detail: int32(BlockJobReady)},
		{Kind: EventBlockThreshold, Domain: web(), Disk: "vda", Path: "/x", Threshold: 10, Excess: 5},
		{Kind: EventIOError, Domain: web(), Disk: "virtio-disk0", Path: "/x", Code: 1, Reason: "enospc"},
	}
	var got []Event
	for range want {
		select {
		case e := <-s.Events():
			got = append(got, e)
		case <-ctx.Done():
			t.Fatal("an event is missing")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestHostile plays daemons that lie. None may take memory, hang or panic; a connection
// that has seen it is over.
func TestHostile(t *testing.T) {
	reply := func(h header, payload []byte) []byte {
		h.kind = typeReply
		b, err := frame(h, payload)
		if err != nil {
			t.Error(err)
		}
		return b
	}
	for name, answer := range map[string]func(h header) []byte{
		"frame too short":    func(header) []byte { return append(payloadOf(u32(27)), make([]byte, 24)...) },
		"frame too long":     func(header) []byte { return append(payloadOf(u32(MaxFrame+1)), make([]byte, 24)...) },
		"another version":    func(h header) []byte { b := reply(h, nil); b[11] = 2; return b },
		"another procedure":  func(h header) []byte { h.procedure++; return reply(h, nil) },
		"unknown type":       func(h header) []byte { b := reply(h, nil); b[19] = 9; return b },
		"unknown status":     func(h header) []byte { h.status = 7; return reply(h, nil) },
		"list too long":      func(h header) []byte { return reply(h, payloadOf(u32(1<<30))) },
		"string too long":    func(h header) []byte { return reply(h, payloadOf(u32(1), u32(MaxString+1), u64(0), u64(0), u64(0))) },
		"string past end":    func(h header) []byte { return reply(h, payloadOf(u32(1), u32(100), u64(0), u64(0), u64(0))) },
		"bytes left over":    func(h header) []byte { return reply(h, payloadOf(u32(0), u32(0), u32(0))) },
		"error without end":  func(h header) []byte { h.status = statusError; return reply(h, payloadOf(u32(1))) },
		"length of negative": func(h header) []byte { return reply(h, payloadOf(u32(1<<32-1))) },
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := dialPeer(t, Options{}, func(p *peer, h header, _ []byte) { p.raw(answer(h)) })
			if _, err := c.Domains(testContext(t)); !errors.Is(err, ErrProtocol) {
				t.Errorf("answered %v", err)
			}
		})
	}
}

func TestTooLongToSend(t *testing.T) {
	c, _ := dialPeer(t, Options{}, func(p *peer, h header, _ []byte) { p.reply(h, web()) })
	if _, err := c.Define(testContext(t), strings.Repeat("x", MaxString+1)); !errors.Is(err, ErrProtocol) {
		t.Errorf("define: %v", err)
	}
	if _, err := c.Define(testContext(t), "<domain/>"); err != nil { // the connection is whole
		t.Error(err)
	}
}

// TestSilent has a daemon that takes calls and says nothing for good.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pings atomic.Int32
		c, _ := dialPeer(t, Options{Keepalive: time.Second, Strikes: 3}, func(_ *peer, h header, _ []byte) {
			if h.program == programKeepalive && h.procedure == keepalivePing {
				pings.Add(1)
			}
		})
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		_, _, err := c.State(ctx, web())
		if !errors.Is(err, ErrSilent) || pings.Load() != 3 || time.Since(began) != 4*time.Second {
			t.Errorf("after %v and %d pings: %v", time.Since(began), pings.Load(), err)
		}
	})
}

// TestKeepalive has a daemon that works for long but gives signs of life, and asks for
// one itself.
func TestKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pongs atomic.Int32
		c, p := dialPeer(t, Options{Keepalive: time.Second, Strikes: 3}, func(p *peer, h header, _ []byte) {
			switch {
			case h.program == programKeepalive && h.procedure == keepalivePing:
				p.send(header{program: programKeepalive, procedure: keepalivePong, kind: typeMessage}, nil)
			case h.program == programKeepalive:
				pongs.Add(1)
			}
		})
		p.send(header{program: programKeepalive, procedure: keepalivePing, kind: typeMessage}, nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, _, err := c.State(ctx, web()); !errors.Is(err, context.DeadlineExceeded) || pongs.Load() != 1 {
			t.Errorf("%v, %d pongs", err, pongs.Load())
		}
	})
}

func TestDaemonGone(t *testing.T) {
	c, _ := dialPeer(t, Options{}, func(p *peer, _ header, _ []byte) { _ = p.conn.Close() })
	_, _, err := c.State(testContext(t), web())
	if !errors.Is(err, ErrClosed) {
		t.Errorf("state: %v", err)
	}
	<-c.Done()
	if _, err := c.Domains(testContext(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("domains: %v", err)
	}
	if _, err := c.Subscribe(testContext(t), Domain{}, EventLifecycle); !errors.Is(err, ErrClosed) {
		t.Errorf("subscribe: %v", err)
	}
}
