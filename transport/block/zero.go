package block

import "bytes"

// IsZero reports whether b holds zeros only. Data that starts with anything else
// costs one comparison of a few bytes; zeros cost what reading them does.
func IsZero(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	// b equals itself moved by one byte, and starts with zero: all zeros.
	return b[0] == 0 && bytes.Equal(b[:len(b)-1], b[1:])
}
