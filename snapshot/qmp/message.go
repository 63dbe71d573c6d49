package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// MaxLine bounds one message of a monitor, in bytes. The longest ones, such as
// query-named-block-nodes of a host with hundreds of nodes, take a few MiB.
const MaxLine = 64 << 20

// Event is something that happened without being asked for.
type Event struct {
	Name string
	Data json.RawMessage // nil when there is none
	Time time.Time
}

// Version of a QEMU.
type Version struct{ Major, Minor, Micro int }

// String is the version with dots.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// message is any line of a monitor.
type message struct {
	ID     string
	Return json.RawMessage
	Error  *Error
	Event  *Event
}

// wire is the union of all that a monitor says.
type wire struct {
	ID     *json.RawMessage `json:"id"`
	Return json.RawMessage  `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event     *string         `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// parseMessage reads a line of a monitor after the greeting.
func parseMessage(line []byte) (message, error) {
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return message{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	var m message
	if w.Event != nil {
		m.Event = &Event{Name: *w.Event, Data: w.Data,
			Time: time.Unix(w.Timestamp.Seconds, w.Timestamp.Microseconds%1e6*1000)}
		return m, nil
	}
	if w.ID != nil {
		if err := json.Unmarshal(*w.ID, &m.ID); err != nil {
			return message{}, fmt.Errorf("%w: id %.40q", ErrProtocol, *w.ID)
		}
	}
	switch {
	case w.Error != nil:
		m.Error = &Error{Class: w.Error.Class, Desc: w.Error.Desc}
	case w.Return != nil:
		m.Return = w.Return
	default:
		return message{}, fmt.Errorf("%w: neither answer nor event", ErrProtocol)
	}
	if m.ID == "" {
		return message{}, fmt.Errorf("%w: answer without an id", ErrProtocol)
	}
	return m, nil
}

// Decode stores what a lone answer to a command, of a monitor or an agent, returns in
// result, unless that is nil. Errors: *Error where the command was refused, ErrProtocol.
func Decode(line []byte, command string, result any) error {
	m, err := parseAgent(line)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return m.into(command, result)
}

var errNoGreeting = errors.New("first message is no greeting of a QEMU monitor")

// parseGreeting reads the first line of a monitor.
func parseGreeting(line []byte) (Version, error) {
	var g struct {
		QMP *struct {
			Version struct {
				QEMU Version `json:"qemu"`
			} `json:"version"`
		} `json:"QMP"`
	}
	if err := json.Unmarshal(line, &g); err != nil || g.QMP == nil {
		return Version{}, fmt.Errorf("%w: %w", ErrProtocol, errNoGreeting)
	}
	return g.QMP.Version.QEMU, nil
}
