package qemu

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A process is taken hold of as the one that it was: not another that has its PID by now.
func TestGrip(t *testing.T) {
	t.Parallel()
	self := instanceOf(os.Getpid())
	p, err := gripOf(self)
	must(t, err)
	defer p.release()
	f, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	defer f.Close()
	own, err := p.takeFile(int(f.Fd()))
	must(t, err)
	must(t, unix.Close(own))
	must(t, unprotectable(self))

	for name, instance := range map[string]string{"before": self + "0", "no": "", "nobody": "boot-0-1"} {
		if _, err := gripOf(instance); !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s process: %v", name, err)
		}
		if seen, err := unprotect(instance); seen || err != nil {
			t.Errorf("%s process has protected memory: %v", name, err)
		}
	}
}
