package journal

import (
	"fmt"
	"strings"
)

// maxFileName leaves room for endings within the 255 bytes of a file name.
const maxFileName = 200

// fileName turns the name of a VM into that of a file, one to one: all bytes but
// letters, digits, dash, underscore and inner dots are written as %XX. So no name
// leaves the folder, hides, or meets another.
func fileName(vm string) (string, error) {
	if vm == "" {
		return "", fmt.Errorf("the VM has no name")
	}
	var b strings.Builder
	for i := range len(vm) {
		if c := vm[i]; safe(c) || c == '.' && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
		if b.Len() > maxFileName {
			return "", fmt.Errorf("the VM's name of %d bytes is too long for a file name", len(vm))
		}
	}
	return b.String(), nil
}

func safe(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}
