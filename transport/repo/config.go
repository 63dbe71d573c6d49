package repo

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const maxConfig = 64 << 10

// ID names a repository: 16 random bytes.
type ID [16]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// config is the object that makes a store a repository. It is bound to every key
// file, so that nobody can change it and go unseen.
type config struct {
	Lull       string      `json:"lull"` // "repository"
	Version    wire.Format `json:"version"`
	ID         string      `json:"id"` // hex
	HPKE       suite       `json:"hpke"`
	PublicKey  []byte      `json:"public_key,omitempty"` // of format 1
	DataKey    []byte      `json:"data_key,omitempty"`   // of format 2, as what follows
	MetaKey    []byte      `json:"meta_key,omitempty"`
	Verify     []byte      `json:"verify,omitempty"` // Ed25519
	Parameters parameters  `json:"parameters"`
}

type suite struct {
	KEM  uint16 `json:"kem"`
	KDF  uint16 `json:"kdf"`
	AEAD uint16 `json:"aead"`
}

// parameters are the same in formats 1 and 2; they are written down for readers in
// other languages, and so that another choice can be told.
type parameters struct {
	Page    int `json:"page"`
	Window  int `json:"window"`
	Average int `json:"average"`
	Max     int `json:"max"`
	Fanout  int `json:"fanout"`
}

func fixed() (suite, parameters) {
	return suite{KEM: keys.KEM, KDF: keys.KDF, AEAD: keys.AEAD},
		parameters{Page: block.PageSize, Window: block.WindowSize, Average: block.AverageBlock, Max: block.MaxBlock, Fanout: tree.Fanout}
}

// encodeConfig makes the config object of a new repository.
func encodeConfig(id ID, public keys.Public) ([]byte, error) {
	c := config{
		Lull: "repository", Version: wire.Version, ID: id.String(),
		DataKey: public.Data, MetaKey: public.Meta, Verify: public.Root,
	}
	c.HPKE, c.Parameters = fixed()
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	return append(b, '\n'), nil
}

// parsedConfig is what a config object says. It is to be believed only once a key
// file that is bound to it was opened.
type parsedConfig struct {
	id     ID
	format wire.Format
	key1   []byte      // public key of format 1
	public keys.Public // of format 2
}

func parseConfig(b []byte) (p parsedConfig, err error) {
	var c config
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&c); err != nil || c.Lull != "repository" || c.Version < 1 {
		return p, fmt.Errorf("%w: no repository configuration", wire.ErrDamaged)
	}
	if c.Version > wire.Version {
		return p, fmt.Errorf("%w: format version %d", wire.ErrNewer, c.Version)
	}
	if s, k := fixed(); c.HPKE != s || c.Parameters != k {
		return p, fmt.Errorf("%w: other parameters than version %d has", wire.ErrNewer, c.Version)
	}
	raw, err := hex.DecodeString(c.ID)
	if err != nil || len(raw) != len(p.id) || !c.keysFit() {
		return p, fmt.Errorf("%w: repository id or public keys", wire.ErrDamaged)
	}
	return parsedConfig{
		id: ID(raw), format: c.Version, key1: c.PublicKey,
		public: keys.Public{Data: c.DataKey, Meta: c.MetaKey, Root: c.Verify},
	}, nil
}

// keysFit tells whether the public keys of the format are there.
func (c *config) keysFit() bool {
	if !c.Version.Signed() {
		return len(c.PublicKey) == keys.PublicKeySize
	}
	return len(c.DataKey) == keys.PublicKeySize && len(c.MetaKey) == keys.PublicKeySize && len(c.Verify) == keys.RootSize
}

// readConfig reads the config object of a store.
func readConfig(ctx context.Context, store blob.Store) ([]byte, error) {
	b, err := readObject(ctx, store, configObject, maxConfig)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrNoRepository, store)
	}
	return b, objectErr(configObject, err)
}
