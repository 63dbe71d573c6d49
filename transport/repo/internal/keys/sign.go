package keys

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const (
	signerSize    = ed25519.PublicKeySize
	signatureSize = ed25519.SignatureSize

	// RootSize is the length of the key that verifies certificates in bytes.
	RootSize = ed25519.PublicKeySize

	// SignatureSize is the length of a signature in bytes.
	SignatureSize = signatureSize
)

// Purposes of signatures. None can be taken for one of another purpose.
const (
	signCertificate = "certificate" // by the root
	signPoint       = "point"
	signPack        = "pack"
	signDocument    = "document"
)

// message is what is signed: no two of different purposes, repositories or contents
// are alike.
func message(purpose string, id Repository, content ...[]byte) []byte {
	h := blake3.New()
	for _, c := range content {
		h.Write(c) // never fails
	}
	m := append([]byte("lull v2 "+purpose+" "), id[:]...)
	return h.Sum(m)
}

// sign signs with this key.
func (r *Ring) sign(purpose string, content ...[]byte) ([]byte, error) {
	if r.signer == nil {
		return nil, fmt.Errorf("sign %s: %w", purpose, ErrNoSigner)
	}
	return ed25519.Sign(r.signer, message(purpose, r.repository, content...)), nil
}

// verify checks a signature of the key that a certificate is about.
func (r *Ring) verify(c *Certificate, purpose string, signature []byte, content ...[]byte) error {
	if len(signature) != signatureSize || !ed25519.Verify(c.Signer[:], message(purpose, r.repository, content...), signature) {
		return fmt.Errorf("%w: the signature of %.40q does not fit", wire.ErrForged, c.Label)
	}
	return nil
}

// appendTrailer ends a signed object: the certificate of its signer, with which
// anyone who knows the repository's config can verify it, and the signature over name
// and everything before.
func (r *Ring) appendTrailer(object []byte, purpose, name string) ([]byte, error) {
	object = r.AppendCertificate(object)
	s, err := r.sign(purpose, []byte(name+"\x00"), object)
	return append(object, s...), err
}

// trailer is the end of a signed object, and what is before it.
type trailer struct {
	rest      []byte // without the certificate
	signed    []byte // with it
	by        *Certificate
	signature []byte
}

// cutTrailer takes the trailer off a signed object. The certificate is good; the signature is
// still to be verified.
func (r *Ring) cutTrailer(object []byte) (t trailer, err error) {
	if len(object) < signatureSize {
		return t, fmt.Errorf("%w: no signature", wire.ErrDamaged)
	}
	t.signed, t.signature = object[:len(object)-signatureSize], object[len(object)-signatureSize:]
	rest, certificate, err := CutCertificate(t.signed)
	if err != nil {
		return t, err
	}
	t.rest = rest
	t.by, err = r.ParseCertificate(certificate)
	return t, err
}

// MaxTrailer bounds the trailer of a signed object, in bytes.
const MaxTrailer = maxCertificate + signatureSize + 2 + signatureSize

// CertificateIn is the certificate in the trailer at the end of b, nil where there is none.
// That its key has signed the object is not looked at.
func (r *Ring) CertificateIn(b []byte) *Certificate {
	t, err := r.cutTrailer(b)
	if err != nil {
		return nil
	}
	return t.by
}

// verifyTrailer checks the signature of an object of a name.
func (r *Ring) verifyTrailer(t *trailer, purpose, name string) error {
	return r.verify(t.by, purpose, t.signature, []byte(name+"\x00"), t.signed)
}

// openTrailer takes the trailer off a signed object, and verifies it.
func (r *Ring) openTrailer(object []byte, purpose, name string) (rest []byte, c *Certificate, err error) {
	t, err := r.cutTrailer(object)
	if err != nil {
		return nil, nil, err
	}
	return t.rest, t.by, r.verifyTrailer(&t, purpose, name)
}

// Signed tells whether a key has signed an object: a point of that name, or a document of one
// of some names. Whether it is otherwise as it should be is not looked at. Of the objects of
// other keys, most of them, only the certificate is looked at.
func (r *Ring) Signed(by Signer, object []byte, point string, names ...string) bool {
	t, err := r.cutTrailer(object)
	if err != nil || t.by.Signer != by {
		return false
	}
	is := func(purpose, name string) bool { return r.verifyTrailer(&t, purpose, name) == nil }
	return is(signPoint, point) || slices.ContainsFunc(names, func(name string) bool { return is(signDocument, name) })
}
