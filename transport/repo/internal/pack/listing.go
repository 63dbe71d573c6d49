package pack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// MaxIndex bounds an index object in bytes.
const MaxIndex = 64 << 20

const (
	listingFixed = 32 + 1 + 4 + 4 // name, kind, size, number of segments
	// listingSigned is what format 2 adds: number of the certificate, signature.
	listingSigned = 2 + keys.SignatureSize
)

// Listing is what an index object says of one pack.
type Listing struct {
	Pack      [32]byte // BLAKE3 of its bytes but for the signature
	Kind      wire.Kind
	Size      uint32
	Directory Directory
	// Certificate is whose signature the pack carries, since format 2.
	Certificate []byte
	Signature   []byte
}

// content is what the signature of a pack is made over, beside the pack's name.
func (l *Listing) content() []byte {
	b := make([]byte, 0, 5+l.Directory.encodedSize())
	b = binary.LittleEndian.AppendUint32(append(b, byte(l.Kind)), l.Size)
	return l.Directory.append(b)
}

// Verify proves that the listing is the word of the key that made the pack, and says
// whose that is: nil in format 1. wire.ErrForged.
func (l *Listing) Verify(ring *keys.Ring) (*keys.Certificate, error) {
	if !ring.Format().Signed() {
		return nil, nil
	}
	c, err := ring.ParseCertificate(l.Certificate)
	if err != nil {
		return nil, err
	}
	return c, ring.VerifyPack(c, l.Signature, l.Pack, l.content())
}

// SealIndex makes the index object of some packs, under its name.
func SealIndex(ring *keys.Ring, name string, packs []Listing) ([]byte, error) {
	var table certificates
	var body []byte
	for i := range packs {
		l := &packs[i]
		body = append(body, l.Pack[:]...)
		body = append(body, byte(l.Kind))
		body = binary.LittleEndian.AppendUint32(body, l.Size)
		body = binary.LittleEndian.AppendUint16(body, table.number(l.Certificate))
		if len(l.Signature) != keys.SignatureSize {
			return nil, fmt.Errorf("seal index: %w", keys.ErrNoSigner)
		}
		body = append(body, l.Signature...)
		body = l.Directory.append(body)
	}
	plain := binary.LittleEndian.AppendUint32(table.append(nil), uint32(len(packs)))
	return ring.SealDocument(wire.Index, name, append(plain, body...))
}

// OpenIndex reads an index object, which only a key may sign that backs up or maintains: who
// reads could else hide packs from others, or make up how large they are. In format 1 its
// name is its hash, which is for the caller to compare, and nobody has signed it.
func OpenIndex(ring *keys.Ring, name string, object []byte) ([]Listing, *keys.Certificate, error) {
	if !ring.Format().Signed() {
		packs, err := openIndex1(ring, object)
		return packs, nil, err
	}
	plain, c, err := ring.OpenDocument(wire.Index, name, object)
	if err == nil && !c.Roles.Has(keys.Backup|keys.Maintain) {
		err = fmt.Errorf("%w: key %.64q is for %s", wire.ErrForged, c.Label, c.Roles)
	}
	if err != nil {
		return nil, nil, err
	}
	packs, err := parseIndex(ring, plain)
	return packs, c, err
}

func openIndex1(ring *keys.Ring, object []byte) ([]Listing, error) {
	if err := ring.WantPrefix(object, wire.Index); err != nil {
		return nil, err
	}
	plain, err := ring.OpenIndex(wire.Index, object[wire.PrefixSize:])
	if err != nil {
		return nil, err
	}
	return parseIndex(ring, plain)
}

func parseIndex(ring *keys.Ring, plain []byte) ([]Listing, error) {
	r := wire.NewReader(plain)
	fixed, signed := listingFixed, ring.Format().Signed()
	var table certificates
	if signed {
		fixed += listingSigned
		table = parseCertificates(r)
	}
	packs := make([]Listing, r.Count(r.Uint32(), fixed))
	for i := range packs {
		l := &packs[i]
		l.Pack, l.Kind, l.Size = r.Name(), wire.Kind(r.Byte()), r.Uint32()
		if l.Kind != wire.DataPack && l.Kind != wire.NodePack || l.Size > MaxPack {
			return nil, fmt.Errorf("%w: index: pack of kind %#x, %d bytes", wire.ErrDamaged, byte(l.Kind), l.Size)
		}
		if signed {
			n := int(r.Uint16())
			if n >= len(table) {
				return nil, fmt.Errorf("%w: index: certificate %d of %d", wire.ErrDamaged, n, len(table))
			}
			l.Certificate, l.Signature = table[n], r.Bytes(keys.SignatureSize)
		}
		dir, end, err := parseDirectory(r, ring.PackHeaderSize())
		if err != nil {
			return nil, err
		}
		if end > l.Size {
			return nil, fmt.Errorf("%w: index: segments end at %d of %d", wire.ErrDamaged, end, l.Size)
		}
		l.Directory = dir
	}
	return packs, r.Done()
}

// certificates are those of an index object's packs, each once.
type certificates [][]byte

// number is the place of a certificate, which is put in when it is new.
func (t *certificates) number(c []byte) uint16 {
	n := slices.IndexFunc(*t, func(o []byte) bool { return bytes.Equal(o, c) })
	if n < 0 {
		n = len(*t)
		*t = append(*t, c)
	}
	return uint16(n)
}

func (t certificates) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(t)))
	for _, c := range t {
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(c)))
		dst = append(dst, c...)
	}
	return dst
}

func parseCertificates(r *wire.Reader) certificates {
	t := make(certificates, r.Count(uint32(r.Uint16()), 2))
	for i := range t {
		t[i] = r.Bytes(int(r.Uint16()))
	}
	return t
}
