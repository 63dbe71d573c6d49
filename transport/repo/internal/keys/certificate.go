package keys

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// ErrNoSigner: this key has no certificate, so nobody would believe what it signs.
var ErrNoSigner = errors.New("this key cannot sign")

const (
	maxCertificate = 1 << 10
	maxLabel       = 64
)

// Certificate says who holds a signing key and what it may do, on the word of the
// repository's root. Every signed object carries its signer's: so an old object can be
// verified although the key was removed or its file is gone.
type Certificate struct {
	Label   string    `json:"label"`
	Roles   Roles     `json:"roles"`
	Created time.Time `json:"created"`
	// Epoch is the newest when the key was made: a store that shows an older one is
	// rolled back.
	Epoch  int    `json:"epoch"`
	Signer Signer `json:"signer"`
	// Box is the BLAKE3 hash of the key that private keys of later epochs are sealed to.
	Box Signer `json:"box"`

	raw       []byte // as it was signed
	signature []byte // of the root
}

// Signer is the public half of a signing key; in JSON base64.
type Signer [signerSize]byte

func (s Signer) String() string { return string(appendBase64(s[:])) }

// MarshalText writes base64, as of a []byte.
func (s Signer) MarshalText() ([]byte, error) { return appendBase64(s[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Signer) UnmarshalText(b []byte) error { return decodeBase64(s[:], b) }

// newCertificate makes a certificate and signs it with the root's key.
func newCertificate(root ed25519.PrivateKey, id Repository, c Certificate) (*Certificate, error) {
	c.Created = c.Created.UTC().Truncate(time.Second)
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	if len(c.Label) == 0 || len(c.Label) > maxLabel || len(raw) > maxCertificate {
		return nil, fmt.Errorf("make certificate: a label of %d bytes, 1 to %d allowed", len(c.Label), maxLabel)
	}
	c.raw, c.signature = raw, ed25519.Sign(root, message(signCertificate, id, raw))
	return &c, nil
}

// parseCertificate reads a certificate and verifies it with the root's key.
func parseCertificate(root ed25519.PublicKey, id Repository, raw, signature []byte) (*Certificate, error) {
	if len(raw) > maxCertificate || len(signature) != signatureSize {
		return nil, fmt.Errorf("%w: certificate of %d bytes", wire.ErrDamaged, len(raw))
	}
	if len(root) != ed25519.PublicKeySize || !ed25519.Verify(root, message(signCertificate, id, raw), signature) {
		return nil, fmt.Errorf("%w: the certificate is not of this repository's owner", wire.ErrForged)
	}
	c := &Certificate{raw: raw, signature: signature}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("%w: certificate", wire.ErrDamaged)
	}
	return c, nil
}

// AppendCertificate appends this key's certificate, to be read from the end with
// CutCertificate.
func (r *Ring) AppendCertificate(dst []byte) []byte {
	c := r.certificate
	if c == nil {
		return dst // sign fails
	}
	return appendCert(dst, c.raw, c.signature)
}

func appendCert(dst, raw, signature []byte) []byte {
	dst = append(append(dst, raw...), signature...)
	return binary.LittleEndian.AppendUint16(dst, uint16(len(raw)))
}

// CutCertificate takes a certificate off the end of b, and does not look into it.
func CutCertificate(b []byte) (rest, certificate []byte, err error) {
	if len(b) < 2 {
		return nil, nil, fmt.Errorf("%w: no certificate", wire.ErrDamaged)
	}
	length := int(binary.LittleEndian.Uint16(b[len(b)-2:]))
	start := len(b) - 2 - signatureSize - length
	if start < 0 || length > maxCertificate {
		return nil, nil, fmt.Errorf("%w: certificate of %d bytes", wire.ErrDamaged, length)
	}
	return b[:start], b[start:], nil
}

// labelOf is the label that a certificate claims, unverified.
func labelOf(b []byte) string {
	if len(b) < 2+signatureSize {
		return ""
	}
	var c Certificate
	if err := json.Unmarshal(b[:len(b)-2-signatureSize], &c); err != nil {
		return ""
	}
	return c.Label
}

// CertificateSize is how much this key's certificate takes in a signed object.
func (r *Ring) CertificateSize() int {
	if r.certificate == nil {
		return 0
	}
	return len(r.certificate.raw) + signatureSize + 2
}

// Bytes is the certificate as it stands in objects; ParseCertificate reads it.
func (c *Certificate) Bytes() []byte { return appendCert(nil, c.raw, c.signature) }

// ParseCertificate verifies a certificate as it stands in objects. As every object has one
// and there are few, it remembers those that it has verified: as many as the root has
// signed, at most.
func (r *Ring) ParseCertificate(b []byte) (*Certificate, error) {
	if c, known := r.verified.Load(string(b)); known {
		return c.(*Certificate), nil
	}
	rest, c, err := CutCertificate(b)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes before the certificate", wire.ErrDamaged, len(rest))
	}
	c = bytes.Clone(c) // the object is not to stay for it
	end := len(c) - 2 - signatureSize
	parsed, err := parseCertificate(r.root, r.repository, c[:end], c[end:len(c)-2])
	if err == nil {
		r.verified.Store(string(c), parsed)
	}
	return parsed, err
}
