package rpc

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzFrames reads whatever a daemon could send: frames, and what each says as an event,
// as an error and as the results that there are.
func FuzzFrames(f *testing.F) {
	seed := func(h header, payload []byte) {
		b, err := frame(h, payload)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	seed(header{program: programRemote, procedure: 273, kind: typeReply, serial: 1}, payloadOf(u32(1), web(), u32(1)))
	seed(header{program: programRemote, procedure: 14, kind: typeReply, serial: 1, status: statusError}, errorPayload(CodeNoDomain, "no"))
	seed(header{program: programRemote, procedure: 318, kind: typeMessage}, payloadOf(i32(1), web(), i32(1), i32(1)))
	seed(header{program: programRemote, procedure: 324, kind: typeMessage}, payloadOf(i32(1), web(), str("/x"), str("y"), i32(1), str("z")))
	seed(header{program: programRemote, procedure: 385, kind: typeMessage}, payloadOf(i32(1), web(), str("vda"), opt("/x"), u64(1), u64(2)))
	seed(header{program: programRemote, procedure: 344, kind: typeReply},
		payloadOf(u32(1), web(), u32(2), str("a"), u32(paramDouble), u64(1), str("b"), u32(paramBool), u32(1)))
	seed(header{program: programKeepalive, procedure: keepalivePing, kind: typeMessage}, nil)
	f.Add([]byte{0, 0, 0, 28})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		for {
			h, payload, err := readFrame(in)
			if err != nil {
				if !errors.Is(err, ErrProtocol) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("read frame: %v", err)
				}
				return
			}
			if len(payload) > len(b) {
				t.Fatal("more than there was")
			}
			everyWay(t, h, payload)
		}
	})
}

func everyWay(t *testing.T, h header, payload []byte) {
	t.Helper()
	c := &Conn{listeners: map[int32]listener{}}
	if err := c.message(h, payload); err != nil && !errors.Is(err, ErrProtocol) {
		t.Errorf("event: %v", err)
	}
	var refused *Error
	if err := parseError(payload); !errors.Is(err, ErrProtocol) && !errors.As(err, &refused) {
		t.Errorf("error: %v", err)
	}
	for _, v := range []result{new(domains), new(names), new(stats), new(Params), new(str), new(opt), new(Domain)} {
		r := &reader{b: payload}
		v.get(r)
		if err := r.end(); err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%T: %v", v, err)
		}
	}
}
