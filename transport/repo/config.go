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
	Lull       string     `json:"lull"` // "repository"
	Version    int        `json:"version"`
	ID         string     `json:"id"` // hex
	HPKE       suite      `json:"hpke"`
	PublicKey  []byte     `json:"public_key"`
	Parameters parameters `json:"parameters"`
}

type suite struct {
	KEM  uint16 `json:"kem"`
	KDF  uint16 `json:"kdf"`
	AEAD uint16 `json:"aead"`
}

// parameters are fixed in version 1; they are written down for readers in other
// languages, and so that another choice can be told.
type parameters struct {
	Page    int `json:"page"`
	Window  int `json:"window"`
	Average int `json:"average"`
	Max     int `json:"max"`
	Fanout  int `json:"fanout"`
}

func version1() (suite, parameters) {
	return suite{KEM: keys.KEM, KDF: keys.KDF, AEAD: keys.AEAD},
		parameters{Page: block.PageSize, Window: block.WindowSize, Average: block.AverageBlock, Max: block.MaxBlock, Fanout: tree.Fanout}
}

// encodeConfig makes the config object of a new repository.
func encodeConfig(id ID, publicKey []byte) ([]byte, error) {
	c := config{Lull: "repository", Version: wire.Version, ID: id.String(), PublicKey: publicKey}
	c.HPKE, c.Parameters = version1()
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	return append(b, '\n'), nil
}

// parseConfig reads a config object. What it says is to be believed only once a
// key file that is bound to it was opened.
func parseConfig(b []byte) (id ID, publicKey []byte, err error) {
	var c config
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&c); err != nil || c.Lull != "repository" || c.Version < 1 {
		return id, nil, fmt.Errorf("%w: no repository configuration", wire.ErrDamaged)
	}
	if c.Version > wire.Version {
		return id, nil, fmt.Errorf("%w: format version %d", wire.ErrNewer, c.Version)
	}
	if s, p := version1(); c.HPKE != s || c.Parameters != p {
		return id, nil, fmt.Errorf("%w: other parameters than version %d has", wire.ErrNewer, c.Version)
	}
	raw, err := hex.DecodeString(c.ID)
	if err != nil || len(raw) != len(id) || len(c.PublicKey) != keys.PublicKeySize {
		return id, nil, fmt.Errorf("%w: repository id or public key", wire.ErrDamaged)
	}
	return ID(raw), c.PublicKey, nil
}

// readConfig reads the config object of a store.
func readConfig(ctx context.Context, store blob.Store) ([]byte, error) {
	b, err := readObject(ctx, store, configObject, maxConfig)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrNoRepository, store)
	}
	return b, objectErr(configObject, err)
}
