package plugintest

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// futureField is a number that no message of this protocol has.
const futureField = 10_007

// later adds to a message what a later lull might send.
func later[M protoreflect.ProtoMessage](m M) M {
	raw := protowire.AppendTag(nil, futureField, protowire.BytesType)
	raw = protowire.AppendString(raw, "from a later lull")
	raw = protowire.AppendTag(raw, futureField+1, protowire.VarintType)
	raw = protowire.AppendVarint(raw, 1<<40)
	m.ProtoReflect().SetUnknown(raw)
	return m
}

// unknownFields asks as a later lull would.
func unknownFields(t quiescetest.TB, o Options) {
	w := proto.NewWriterClient(start(t, o, o.Guest()).Wire())
	req := later(&proto.Request{Run: request().Run, Vm: request().VM})
	try := func(call string, err error) {
		if !answered(err) {
			t.Errorf("%s with fields that it does not know: %v", call, err)
		}
	}
	_, err := w.Identify(o.within(t), later(&proto.IdentifyRequest{}))
	try("identify", err)
	_, err = w.Prepare(o.within(t), later(&proto.PrepareRequest{Request: req, Disks: []*proto.Disk{later(&proto.Disk{Name: "disk0", Size: 1 << 30})}}))
	try("prepare", err)
	_, err = w.Thaw(o.within(t), later(&proto.ThawRequest{Request: req}))
	try("thaw", err)
	_, err = w.PostSnapshot(o.within(t), later(&proto.PostSnapshotRequest{Request: req}))
	try("post-snapshot", err)
	_, err = w.Complete(o.within(t), later(&proto.CompleteRequest{
		Request: req, Level: proto.Level(99), Outcomes: []*proto.Outcome{later(&proto.Outcome{Component: later(&proto.Component{}), Level: proto.Level(99)})},
	}))
	try("complete", err)
	_, err = w.Abort(o.within(t), later(&proto.AbortRequest{Request: req}))
	try("abort", err)
}

// unknownCall asks for what a later protocol may have. A plugin says Unimplemented.
func unknownCall(t quiescetest.TB, o Options) {
	p := start(t, o, o.Guest())
	err := p.Wire().Invoke(o.within(t), "/lull.plugin.v1.Writer/FromALaterLull", &proto.IdentifyRequest{}, &proto.IdentifyResponse{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a call that it does not know: %v, want the code Unimplemented", err)
	}
	identified(t, o, p)
}

// oddRequests are legal on the wire and in no other way.
func oddRequests(t quiescetest.TB, o Options) {
	p := start(t, o, o.Guest())
	w := proto.NewWriterClient(p.Wire())
	for what, req := range map[string]*proto.Request{
		"without a run": nil,
		"with a run of odd letters": {
			Run: "../../'\"$(reboot)`\x00\n\u202e", Vm: "; rm -rf / #",
		},
		"with a run of 64 KiB": {Run: strings.Repeat("r", 64<<10), Vm: strings.Repeat("v", 64<<10)},
	} {
		_, err := w.Abort(o.within(t), &proto.AbortRequest{Request: req})
		if !answered(err) {
			t.Errorf("abort %s: %v", what, err)
		}
		_, err = w.PostRestore(o.within(t), &proto.PostRestoreRequest{Request: &proto.RestoreRequest{
			Vm: req.GetVm(), Point: req.GetRun(), Document: []byte(strings.Repeat("\xff{", 1<<10)),
		}})
		if !answered(err) {
			t.Errorf("post-restore %s and a document that is none of its own: %v", what, err)
		}
	}
	identified(t, o, p)
}

// noGrants starts a plugin that may do nothing in the guest.
func noGrants(t quiescetest.TB, o Options) {
	o.Grants = []plugins.Grant{}
	p := start(t, o, o.Guest())
	if err := quiescetest.PrepareOnly(o.within(t), p, request()); err != nil {
		t.Logf("prepare: %v", err)
	}
	if err := p.Freeze(o.within(t), request()); err != nil {
		t.Logf("freeze: %v", err)
	}
	if err := p.Abort(o.within(t), request()); err != nil {
		t.Logf("abort: %v", err)
	}
	identified(t, o, p)
}

// answered says whether an error is an answer of the plugin, and none of a
// connection or a deadline.
func answered(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return false
	}
	return true
}

// identified holds a plugin to an answer, and its identity to the contract.
func identified(t quiescetest.TB, o Options, p *plugins.Plugin) {
	t.Helper()
	id, err := p.Identify(o.within(t))
	if err != nil {
		t.Fatalf("identify: %v", err)
	}
	if err := id.Check(); err != nil {
		t.Fatalf("identify: %v", err)
	}
}
