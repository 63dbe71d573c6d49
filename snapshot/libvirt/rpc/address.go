package rpc

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// DefaultURI is libvirt's daemon of this host.
const DefaultURI = "qemu:///system"

// Address is where a daemon of libvirt is, and what it is asked for.
type Address struct {
	Driver string // qemu:///system or qemu:///session
	Socket string // empty: where libvirt puts it
}

// String is the URI of the address.
func (a Address) String() string {
	if a.Socket == "" {
		return a.Driver
	}
	q := url.Values{"socket": {a.Socket}}
	return strings.Replace(a.Driver, "qemu:", "qemu+unix:", 1) + "?" + q.Encode()
}

// ParseAddress reads a URI of libvirt that leads to QEMU on this host. Empty is
// DefaultURI. Others are snapshot.ErrUnsupported, with a hint.
func ParseAddress(uri string) (Address, error) {
	u, err := url.Parse(cmp.Or(uri, DefaultURI))
	if err != nil {
		return Address{}, fmt.Errorf("URI %q: %w", uri, snapshot.ErrUnsupported) // url's own words may repeat a password
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	switch {
	case driver != "qemu":
		return Address{}, refuse(uri, "only QEMU's driver is served", "write qemu:///system")
	case u.Host != "" || u.User != nil || transport != "" && transport != "unix":
		return Address{}, refuse(u.Redacted(), "it leads to another host, whose disks cannot be read from here", "run lull's agent on that host, with qemu:///system")
	case u.Path != "/system" && u.Path != "/session":
		return Address{}, refuse(uri, "it is neither /system nor /session", "write qemu:///system")
	}
	a := Address{Driver: "qemu://" + u.Path}
	for key, values := range u.Query() {
		if key != "socket" || len(values) != 1 || !filepath.IsAbs(values[0]) {
			return Address{}, refuse(uri, "its parameter "+key+" is not served", "give no parameter but socket=/PATH, or none")
		}
		a.Socket = filepath.Clean(values[0])
	}
	return a, nil
}

func refuse(uri, why, next string) error {
	return snapshot.WithHint(fmt.Errorf("URI %s: %s: %w", uri, why, snapshot.ErrUnsupported), next)
}

// socket is the path of the daemon's socket: of libvirtd, or where there is none, of the
// modular virtqemud.
func (a Address) socket() (string, error) {
	if a.Socket != "" {
		return a.Socket, nil
	}
	dir := "/run/libvirt"
	if a.Driver != DefaultURI {
		runtime := os.Getenv("XDG_RUNTIME_DIR")
		if runtime == "" {
			cache, err := os.UserCacheDir()
			if err != nil {
				return "", fmt.Errorf("look for the session's socket: %w", err)
			}
			runtime = cache
		}
		dir = filepath.Join(runtime, "libvirt")
	}
	first := filepath.Join(dir, "libvirt-sock")
	second := filepath.Join(dir, "virtqemud-sock")
	if _, err := os.Stat(first); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(second); err == nil {
			return second, nil
		}
	}
	return first, nil
}
