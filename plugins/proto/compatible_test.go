package proto_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lull-backup/lull/plugins/proto"
)

// TestCompatible holds writer.proto to what plugins in the field were built with.
// The file has one line for each call, field and enum value of protocol version 1:
// lines are appended, and never changed or removed. What cannot be done that way
// is another version of the protocol, in another package.
func TestCompatible(t *testing.T) {
	const golden = "testdata/writer-v1.txt"
	data, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	promised := strings.Split(strings.TrimSpace(string(data)), "\n")
	has := elements(proto.File_writer_proto)
	for _, line := range missing(promised, has) {
		t.Errorf("plugins in the field rely on what writer.proto no longer has: %s", line)
	}
	for _, line := range missing(has, promised) {
		t.Errorf("writer.proto has something new: append to %s: %s", golden, line)
	}
}

// The check finds what breaks: each change of a line is one that is missing.
func TestCompatibleBites(t *testing.T) {
	has := elements(proto.File_writer_proto)
	for _, promised := range []string{
		"field lull.plugin.v1.Request.run = 2 string",          // renumbered
		"field lull.plugin.v1.Request.run = 1 bytes",           // of another type
		"field lull.plugin.v1.Request.run = 1 repeated string", // of another cardinality
		"field lull.plugin.v1.Request.gone = 9 string",
		"enum lull.plugin.v1.Tier.TIER_SYSTEM = 2",
		"call lull.plugin.v1.Writer.Freeze(lull.plugin.v1.ThawRequest) lull.plugin.v1.FreezeResponse",
		"call lull.plugin.v1.Writer.Gone(lull.plugin.v1.ThawRequest) lull.plugin.v1.ThawResponse",
	} {
		if len(missing([]string{promised}, has)) == 0 {
			t.Errorf("not found missing: %s", promised)
		}
	}
	if len(has) < 50 {
		t.Errorf("%d elements only", len(has))
	}
}

// missing are the lines of want that has lacks.
func missing(want, has []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(line string) bool { return slices.Contains(has, line) })
}

// elements are a line for everything that the wire depends on.
func elements(f protoreflect.FileDescriptor) []string {
	var out []string
	for i := range f.Services().Len() {
		methods := f.Services().Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			line := fmt.Sprintf("call %s(%s) %s", m.FullName(), m.Input().FullName(), m.Output().FullName())
			if m.IsStreamingClient() || m.IsStreamingServer() {
				line += " streaming"
			}
			out = append(out, line)
		}
	}
	for i := range f.Messages().Len() {
		out = append(out, fields(f.Messages().Get(i))...)
	}
	for i := range f.Enums().Len() {
		values := f.Enums().Get(i).Values()
		for j := range values.Len() {
			out = append(out, fmt.Sprintf("enum %s.%s = %d", f.Enums().Get(i).FullName(), values.Get(j).Name(), values.Get(j).Number()))
		}
	}
	return out
}

func fields(m protoreflect.MessageDescriptor) []string {
	out := []string{"message " + string(m.FullName())}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		kind := f.Kind().String()
		switch {
		case f.Message() != nil:
			kind = string(f.Message().FullName())
		case f.Enum() != nil:
			kind = string(f.Enum().FullName())
		}
		if f.Cardinality() == protoreflect.Repeated {
			kind = "repeated " + kind
		}
		out = append(out, fmt.Sprintf("field %s = %d %s", f.FullName(), f.Number(), kind))
	}
	for i := range m.Messages().Len() {
		out = append(out, fields(m.Messages().Get(i))...)
	}
	return out
}
