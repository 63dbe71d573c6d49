package repo

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

func FuzzConfig(f *testing.F) {
	good, err := encodeConfig(ID{1}, keys.Public{Data: make([]byte, keys.PublicKeySize), Meta: make([]byte, keys.PublicKeySize), Root: make([]byte, keys.RootSize)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"lull":"repository","version":99}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseConfig(b); err != nil && !errors.Is(err, wire.ErrDamaged) && !errors.Is(err, wire.ErrNewer) {
			t.Error(err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	doc, err := json.Marshal(Point{ID: "20261121T013000Z-00000000", VM: "lab/web", Disks: []Disk{{Root: Root{Size: 1 << 30}}}})
	if err != nil {
		f.Fatal(err)
	}
	packed, err := compress(doc)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed, false)
	f.Add(doc, true)
	f.Fuzz(func(t *testing.T, b []byte, plain bool) {
		if plain {
			if b, err = compress(b); err != nil {
				t.Fatal(err)
			}
		}
		p, err := decodePoint(b)
		if err != nil {
			if !errors.Is(err, wire.ErrDamaged) {
				t.Error(err)
			}
			return
		}
		for root := range p.roots() {
			if err := tree.Root(root).Check(); err != nil {
				t.Error(err)
			}
		}
	})
}
