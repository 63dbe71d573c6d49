package qmp

import (
	"bytes"
	"encoding/json"
	"testing"
)

func FuzzMonitor(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"return": {}, "id": "lull-1"}` + "\r\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "no"}, "id": "lull-2"}` + "\n"))
	f.Add([]byte(`{"timestamp": {"seconds": 1, "microseconds": -9223372036854775808}, "event": "STOP", "data": {}}` + "\n"))
	f.Add([]byte("{}\n\n[]\n\"\n{\"id\":null,\"return\":0}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines := newLineReader(bytes.NewReader(b), 1<<10)
		for {
			line, err := lines.line()
			if err != nil {
				return
			}
			if len(line) > 1<<10 {
				t.Fatalf("line of %d bytes", len(line))
			}
			_, _ = parseGreeting(line)
			m, err := parseMessage(line)
			if err == nil && m.Event == nil && (m.ID == "" || m.Return == nil == (m.Error == nil)) {
				t.Fatalf("%q is taken for %+v", line, m)
			}
		}
	})
}

func FuzzAgent(f *testing.F) {
	f.Add([]byte("\xff{\"return\": 42}\n{\"return\": 2}\n"), int64(42))
	f.Add([]byte("{\"return\"\xff{\"return\": 42.0}\n"), int64(42))
	f.Add([]byte("{\"return\": 42}\n"), int64(42))
	f.Add([]byte(`{"return": {"exited": true, "signal": 9223372036854775807, "out-data": "!"}}`+"\n"), int64(1))
	f.Fuzz(func(t *testing.T, b []byte, id int64) {
		lines := newLineReader(bytes.NewReader(b), 1<<10)
		for {
			line, err := lines.line()
			if err != nil {
				return
			}
			if isSync(line, id) && !bytes.Contains(line, []byte{0xFF}) {
				t.Fatalf("%q without a delimiter is taken for a sync", line)
			}
			m, err := parseAgent(line)
			if err != nil || m.Error != nil {
				continue
			}
			var s execStatus
			if json.Unmarshal(m.Return, &s) == nil {
				s.result()
			}
		}
	})
}
