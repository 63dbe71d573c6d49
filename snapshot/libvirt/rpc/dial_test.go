package rpc

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

func TestParseAddress(t *testing.T) {
	for uri, want := range map[string]Address{
		"":                                   {Driver: "qemu:///system"},
		"qemu:///system":                     {Driver: "qemu:///system"},
		"qemu:///session":                    {Driver: "qemu:///session"},
		"qemu+unix:///system":                {Driver: "qemu:///system"},
		"qemu+unix:///system?socket=/run/a/": {Driver: "qemu:///system", Socket: "/run/a"},
	} {
		a, err := ParseAddress(uri)
		if err != nil || a != want {
			t.Errorf("%q: %+v, %v", uri, a, err)
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q read back: %+v, %v", a, again, err)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for uri, hint := range map[string]string{
		"qemu+ssh://root@kvm2/system":        "run lull's agent on that host",
		"qemu+tls://kvm2/system":             "run lull's agent on that host",
		"qemu://kvm2/system":                 "run lull's agent on that host",
		"qemu+ssh:///system":                 "run lull's agent on that host",
		"xen:///system":                      "qemu:///system",
		"qemu:///embed?root=/x":              "qemu:///system",
		"qemu:///system?mode=direct":         "no parameter",
		"qemu+unix:///system?socket=libvirt": "no parameter",
	} {
		_, err := ParseAddress(uri)
		var hinted *snapshot.Hinted
		if !errors.Is(err, snapshot.ErrUnsupported) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, hint) {
			t.Errorf("%s: %v, %v", uri, err, hinted)
		}
	}
	if _, err := ParseAddress("qemu+ssh://root:secret@kvm2/system"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password is shown: %v", err)
	}
}

func TestDialNobody(t *testing.T) {
	a := Address{Driver: DefaultURI, Socket: filepath.Join(t.TempDir(), "sock")}
	if _, err := Dial(testContext(t), a, Options{}); !errors.Is(err, snapshot.ErrUnreachable) {
		t.Errorf("dial: %v", err)
	}
}

// TestOpen goes through the ways in which a daemon can receive a client.
func TestOpen(t *testing.T) {
	for name, test := range map[string]struct {
		ways    []argument
		version Version
		refuse  uint32 // this procedure
		want    error
	}{
		"none":        {[]argument{u32(1), i32(authNone)}, 9_000_000, 0, nil},
		"polkit":      {[]argument{u32(1), i32(authPolkit)}, 11_003_000, 0, nil},
		"polkit: no":  {[]argument{u32(1), i32(authPolkit)}, 9_000_000, 70, snapshot.ErrUnreachable},
		"SASL":        {[]argument{u32(1), i32(authSASL)}, 9_000_000, 0, snapshot.ErrUnsupported},
		"a new way":   {[]argument{u32(1), i32(77)}, 9_000_000, 0, snapshot.ErrUnsupported},
		"too old":     {[]argument{u32(1), i32(authNone)}, 7_000_000, 0, snapshot.ErrUnsupported},
		"no driver":   {[]argument{u32(1), i32(authNone)}, 9_000_000, 1, snapshot.ErrUnreachable},
		"a long list": {[]argument{u32(1 << 31)}, 9_000_000, 0, ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := dialPeer(t, Options{}, func(p *peer, h header, _ []byte) {
				switch {
				case test.refuse == h.procedure:
					p.refuse(h, CodeAuthFailed, "no")
				case h.procedure == 66:
					p.reply(h, test.ways...)
				case h.procedure == 60, h.procedure == 70:
					p.reply(h, i32(1))
				case h.procedure == 1:
					p.reply(h)
				case h.procedure == 157:
					p.reply(h, u64(test.version))
				}
			})
			err := c.open(testContext(t), Address{Driver: DefaultURI}, false)
			if test.want == nil && (err != nil || c.Version() != test.version) || !errors.Is(err, test.want) {
				t.Errorf("open: %v, version %v", err, c.Version())
			}
		})
	}
}
