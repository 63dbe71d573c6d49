package keys

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/block"
)

// Master is the secret of a repository from which all others derive.
type Master [32]byte

// Repository is the random identity of a repository.
type Repository [16]byte

// Suite of HPKE, RFC 9180: X25519 with ML-KEM-768 ("X-Wing").
const (
	KEM  uint16 = 0x647a
	KDF  uint16 = 1 // HKDF-SHA256
	AEAD uint16 = 2 // AES-256-GCM
)

// PublicKeySize is the length of the suite's public key in bytes.
const PublicKeySize = 1216

// Ring holds the keys of an open repository. Safe for concurrent use.
type Ring struct {
	Data   block.Namer // names of data blocks
	Nodes  block.Namer // names of map nodes
	Cutter block.Cutter

	repository Repository
	index      []byte
	vms        []byte
	writers    []byte
	public     hpke.PublicKey
	private    hpke.PrivateKey
}

// NewMaster draws a master secret.
func NewMaster() (m Master) {
	rand.Read(m[:]) // never fails: crypto/rand
	return m
}

// Ring derives the keys of a repository.
func (m Master) Ring(id Repository) (*Ring, error) {
	d := deriver{master: m[:], salt: id[:]}
	r := &Ring{
		repository: id,
		index:      d.key("index", 32),
		vms:        d.key("vm names", 32),
		writers:    d.key("writers", 32),
		Cutter:     block.NewCutter([block.CutKeySize]byte(d.key("cut", block.CutKeySize))),
		Data:       d.namer("data names"),
		Nodes:      d.namer("node names"),
	}
	r.private = d.keyPair("read")
	if d.err != nil {
		return nil, fmt.Errorf("derive keys: %w", d.err)
	}
	r.public = r.private.PublicKey()
	return r, nil
}

// deriver makes keys until the first error.
type deriver struct {
	master, salt []byte
	err          error
}

func (d *deriver) key(purpose string, length int) []byte {
	k, err := hkdf.Key(sha256.New, d.master, d.salt, "lull v1 "+purpose, length)
	d.err = errors.Join(d.err, err)
	if err != nil {
		return make([]byte, length)
	}
	return k
}

func (d *deriver) namer(purpose string) block.Namer {
	n, err := block.NewNamer(d.key(purpose, block.KeySize))
	d.err = errors.Join(d.err, err)
	return n
}

func (d *deriver) keyPair(purpose string) hpke.PrivateKey {
	k, err := hpke.MLKEM768X25519().DeriveKeyPair(d.key(purpose, 32))
	d.err = errors.Join(d.err, err)
	return k
}

// PublicKey is what pack keys and restore points are sealed to.
func (r *Ring) PublicKey() []byte { return r.public.Bytes() }

// VM is the name under which the store knows a VM.
func (r *Ring) VM(name string) (id [16]byte) {
	h, err := blake3.NewKeyed(r.vms)
	if err != nil {
		return id // not reached: the key has 32 bytes
	}
	h.WriteString(name)
	copy(id[:], h.Sum(nil))
	return id
}
